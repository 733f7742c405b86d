//! All scenarios that may run beside each other, in one program, which compiles faster than forty and keeps all
//! processors busy. Each module has one subject, and its name selects it: `cargo test --test scenarios restart::`.

mod architecture;
mod audit;
mod blame;
mod cli;
mod client_class;
mod features;
mod hostile_budgets;
mod hostile_cases;
mod hostile_documents;
mod hostile_frames;
mod hostile_load;
mod hostile_memory;
mod hostile_messages;
mod hostile_rings;
mod hostile_worker;
mod idle;
mod lifecycle;
mod offload_matrix;
mod offloads;
mod pausing;
mod pending_clients;
mod polling;
mod restart;
mod signals;
mod slices;
mod standby;
mod starved;
mod stream_doors;
mod streams;
mod switching;
mod telemetry;
mod threads;
mod unsafe_code;
mod upgrade;
mod uplinks;

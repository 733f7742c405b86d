//! Fuzz targets of the supervisor; see [`sv3::fuzz`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target panics when something is wrong")]

mod config;
mod control;
mod declared;
mod ledger;
mod live;
mod reports;
pub(crate) mod session;

pub use config::config;
pub use control::control;
pub use declared::declared;
pub use ledger::ledger;
pub use live::live;
pub use reports::reports;
pub use session::session;

#[cfg(test)]
mod tests {
    use sv3::fuzz::replay;

    #[test]
    fn corpora() {
        replay("config", super::config);
        replay("control", super::control);
        replay("declared", super::declared);
        replay("ledger", super::ledger);
        replay("live", super::live);
        replay("reports", super::reports);
        replay("session", super::session);
    }
}

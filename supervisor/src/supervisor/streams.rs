//! Stream clients: connections that carry frames, each after its length, and no protocol. The supervisor never reads
//! from them.
//!
//! At the front door the first octet decides ([`Connection::begins_stream`]), so such a client has a port when its
//! guest has sent a frame. At a door for streams (`--stream`) a client has a port at once. From there on the port is
//! one of open files that ends with its connection. Budget, slots, blame and quarantine are those of all clients.
//!
//! [`Connection::begins_stream`]: crate::clients::protocol::Connection::begins_stream

use std::time::Instant;

use serde_json::json;

use super::Supervisor;
use crate::doors::listener::Peer;
use crate::doors::stream::StreamForm;
use crate::ports::files::FilePort;
use crate::ports::holdings::Holdings;
use crate::telemetry::event::Named;

impl Supervisor {
    /// A pending client is a stream: gives its connection, from which nothing was read, a port.
    pub(super) fn become_stream(&mut self, number: u16) {
        let Some(client) = self.clients.slots.remove(number) else { return };
        self.reactor.forget(&client);
        self.clients.budget.change(client.id.pid, client.held, Holdings::NONE);
        let home = client.home;
        self.add_stream(client.connection.into_peer(), StreamForm::PLAIN, home);
    }

    /// Gives a stream client a port: that of the slot `home`, or else one that is free.
    pub(super) fn add_stream(&mut self, peer: Peer, form: StreamForm, home: Option<u16>) {
        let (pid, uid) = (peer.pid, peer.uid);
        let slot = self.slot_for(home, pid).map_err(|refuse| refuse.0);
        let port = slot.and_then(|slot| {
            let terms = self.clients.slots.declared.of_client(slot, uid);
            FilePort::of_client(slot, form, peer, self.clients.next_serial(), terms)
        });
        let mut port = match port {
            Ok(port) => port,
            Err(why) => {
                let message = format!("process {pid}, which has no port, {why}; the connection is closed");
                let fields = json!({ "client_pid": pid });
                return self.telemetry.events.say_of_with(None, "refuse", message, fields);
            }
        };
        let (named, now) = (port.named(), Instant::now());
        let message = format!("{}: process {pid} of user {uid} connected, a stream", port.name());
        self.telemetry.events.say_of_port(&named, "attach", message, json!({}));
        let own = self.clients.blames.until(pid, now).map(|until| (until, None));
        let of_class = || self.clients.classes.until(port.holder().class, now, now);
        let quarantine = own.or_else(|| of_class().map(|(until, class)| (until, Some(class))));
        if let Some((until, suspect)) = quarantine {
            (port.quarantine, port.suspect) = (Some(until), suspect);
            self.say_quarantine(&named, until, suspect);
        }
        self.add_files(port);
    }

    /// Ends a stream client's port, and says why.
    pub(super) fn end_stream(&mut self, slot: u16, why: &str) {
        let Some(Named { name, client }) = self.clients.slots.files(slot).map(|port| port.named()) else { return };
        self.telemetry.events.say_of(client, "refuse", format!("{name}: {why}; the connection is closed"));
        self.remove_files(slot, "was sent away");
    }
}

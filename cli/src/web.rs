//! `sv3 web`: a page for a browser of this machine.
//!
//! # Theory of operation
//!
//! Two processes, since one must not do both: speak with whoever connects, and ask at the control socket, where the same
//! words that ask could also attach, detach and restart.
//!
//! ```text
//!   browser ──HTTP──▶ page server ──one octet──▶ asker ──a line──▶ control socket of the switch
//!                     (child)     ◀──an answer──         ◀──JSON──
//! ```
//!
//! The page server ([`server`]) reads what any user of this machine sends. It has a listening socket and a socket to the
//! asker, and may open nothing: no file, no socket ([`confine`]). The asker ([`asker`]) takes one octet for each of two
//! questions, `status` and `crashes`, and passes the answer on without reading it. So whoever takes over the page server
//! learns what the page shows, and can ask nothing else.
//!
//! A request needs a loopback `Host` ([`sv3::http`]) and the token of the address ([`token`]). What is sent back stands
//! in [`answers`].

mod answers;
mod asker;
mod confine;
mod server;
mod token;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use clap::Args;
use sv3::control::ControlRequest;
use sv3::http::parse_address;

use crate::control::Control;
use crate::output::print;
use server::Server;
use token::Token;

/// Serve a page with the switch's picture to a browser of this machine; Ctrl-C ends it.
///
/// It prints the page's address. Whoever has the address may look; nobody can change anything. See docs/use/web.md.
#[derive(Args)]
pub struct Web {
    #[command(flatten)]
    control: Control,
    /// Where to listen: a loopback address and a port; 0: any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0", value_parser = parse_address)]
    listen: SocketAddr,
}

impl Web {
    /// Serves until the page server ends or a signal comes.
    pub fn exec(&self) -> Result<(), String> {
        // Who names a socket where no switch runs is told at once. Later the switch may go and come back.
        self.control.ask(&ControlRequest::Status)?;
        let at = |error: std::io::Error| format!("cannot serve a page at {}: {error}", self.listen);
        let listener = TcpListener::bind(self.listen).map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        let token = Token::random()?;
        let (page, theirs) = UnixStream::pair().map_err(|error| format!("socketpair: {error}"))?;
        let own = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
        let mut command = Command::new(&own);
        command.arg("page").stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(OwnedFd::from(listener)));
        command.spawn().map_err(|error| format!("{}: {error}", own.display()))?;
        // The command holds the sockets of the page server.
        drop(command);
        token.send(&page)?;
        print(&format!("http://{address}/{token}/\n"))?;
        confine::asker()?;
        asker::serve(&self.control, &page)
    }
}

/// Serve a page at the socket that is stdout, asked for by `sv3 web`, which is at stdin.
#[derive(Args)]
pub struct Page {}

impl Page {
    /// Serves until the asker has gone.
    pub fn exec(&self) -> Result<(), String> {
        let taken = |error: std::io::Error| format!("this is a part of `sv3 web`, and not for people: {error}");
        let asker = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(taken)?);
        let listener = TcpListener::from(std::io::stdout().as_fd().try_clone_to_owned().map_err(taken)?);
        let token = Token::receive(&asker)?;
        let server = Server::new(listener, asker, token).map_err(taken)?;
        confine::page()?;
        server.run()
    }
}

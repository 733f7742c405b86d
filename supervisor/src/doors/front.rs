//! The front door: the socket that clients connect to, and pauses in accepting.

use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use crate::doors::listener::{Incoming, Listener};
use crate::reactor::Reactor;
use crate::token::Token;

/// The front door.
pub struct FrontDoor {
    listener: Listener,
    /// No connection is accepted before.
    opens: Option<Instant>,
}

impl FrontDoor {
    /// A front door that epoll does not watch yet.
    pub fn new(listener: Listener) -> FrontDoor {
        FrontDoor { listener, opens: None }
    }

    /// The socket.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The next connection.
    pub fn accept(&mut self) -> Incoming {
        self.listener.accept()
    }

    /// Accepts no connection until then. They wait in the socket's queue.
    pub fn close_until(&mut self, until: Instant, reactor: &Reactor) {
        self.opens = Some(until);
        reactor.change(&self.listener, Token::FrontDoor, EpollFlags::empty());
    }

    /// When connections are accepted again.
    pub fn opens(&self) -> Option<Instant> {
        self.opens
    }

    /// Accepts connections again.
    pub fn open(&mut self, reactor: &Reactor) {
        self.opens = None;
        reactor.change(&self.listener, Token::FrontDoor, EpollFlags::EPOLLIN);
    }
}

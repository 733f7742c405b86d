//! The front door: where clients connect, and until when nobody is let in.

use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use crate::doors::listener::{Caller, Listener};
use crate::reactor::Reactor;
use crate::token::Token;

/// The socket of the clients.
pub struct FrontDoor {
    listener: Listener,
    /// Nobody is let in before.
    opens: Option<Instant>,
}

impl FrontDoor {
    /// A door at which nobody is listened to yet.
    pub fn new(listener: Listener) -> FrontDoor {
        FrontDoor { listener, opens: None }
    }

    /// The socket.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The next connection.
    pub fn accept(&mut self) -> Caller {
        self.listener.accept()
    }

    /// Lets nobody in for a while. They wait in the socket's queue.
    pub fn close_until(&mut self, until: Instant, reactor: &Reactor) {
        self.opens = Some(until);
        reactor.change(&self.listener, Token::FrontDoor, EpollFlags::empty());
    }

    /// When clients are let in again.
    pub fn opens(&self) -> Option<Instant> {
        self.opens
    }

    /// Lets clients in again.
    pub fn open(&mut self, reactor: &Reactor) {
        self.opens = None;
        reactor.change(&self.listener, Token::FrontDoor, EpollFlags::EPOLLIN);
    }
}

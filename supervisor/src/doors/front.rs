//! A door that clients connect to, and pauses in accepting: the front door, or a door for streams.

use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use crate::doors::listener::{Incoming, Listener};
use crate::doors::stream::StreamForm;
use crate::reactor::Reactor;
use crate::token::Token;

/// The door.
pub struct FrontDoor {
    listener: Listener,
    token: Token,
    /// What the frames of its clients are like; `None`: a client may speak vhost-user, and its first octet tells.
    form: Option<StreamForm>,
    /// No connection is accepted before.
    opens: Option<Instant>,
    /// The process that was turned away last, so that it is told once.
    turned_away: Option<i32>,
}

impl FrontDoor {
    /// A door that epoll does not watch yet.
    pub fn new(listener: Listener, token: Token, form: Option<StreamForm>) -> FrontDoor {
        FrontDoor { listener, token, form, opens: None, turned_away: None }
    }

    /// The socket.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The service manager keeps its name.
    pub fn lend(&mut self) {
        self.listener.lend();
    }

    /// Its token for epoll.
    pub fn token(&self) -> Token {
        self.token
    }

    /// What the frames of its clients are like, if all of them are streams.
    pub fn form(&self) -> Option<StreamForm> {
        self.form
    }

    /// From now on the frames of its clients are like this.
    pub fn change_form(&mut self, form: Option<StreamForm>) {
        self.form = form;
    }

    /// Notes the process that is turned away; `None`: somebody is let in. Returns whether that is news.
    pub fn turns_away(&mut self, pid: Option<i32>) -> bool {
        std::mem::replace(&mut self.turned_away, pid) != pid
    }

    /// Watches the door from now on.
    pub fn watch(&self, reactor: &Reactor) -> std::io::Result<()> {
        reactor.watch(&self.listener, self.token, EpollFlags::EPOLLIN)
    }

    /// The next connection.
    pub fn accept(&mut self) -> Incoming {
        self.listener.accept()
    }

    /// Accepts no connection until then. They wait in the socket's queue.
    pub fn close_until(&mut self, until: Instant, reactor: &Reactor) {
        self.opens = Some(until);
        reactor.change(&self.listener, self.token, EpollFlags::empty());
    }

    /// When connections are accepted again.
    pub fn opens(&self) -> Option<Instant> {
        self.opens
    }

    /// Accepts connections again, if the pause is over.
    pub fn expire(&mut self, now: Instant, reactor: &Reactor) {
        if self.opens.take_if(|opens| *opens <= now).is_some() {
            reactor.change(&self.listener, self.token, EpollFlags::EPOLLIN);
        }
    }
}

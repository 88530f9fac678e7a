// SPDX-License-Identifier: Apache-2.0
//! The API server: few connections, small requests, and no client can make the supervisor wait.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::poll::PollFlags;

use super::poll::{ConnectionId, Interests, Token, earlier};

mod connection;
mod follower;
pub mod http;
pub(crate) mod route;

pub(crate) use route::Command;

use connection::Connection;
use follower::Follower;
pub(crate) use follower::{Sources, Topic};
use http::{Refusal, Response};

/// How many clients may be connected.
const CONNECTIONS_MAX: usize = 16;
/// How many more are told that they are too many; the server closes others at once.
const REFUSALS_MAX: usize = 4;
/// How many clients may follow events or the console: the other places are for requests.
const FOLLOWERS_MAX: usize = 8;

/// All connected clients.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    connections: Vec<(ConnectionId, Connection)>,
    followers: Vec<(ConnectionId, Follower)>,
    accepted: u64,
}

impl Server {
    /// A server without clients.
    pub(crate) fn new(listener: UnixListener) -> Self {
        Self {
            listener,
            connections: Vec::new(),
            followers: Vec::new(),
            accepted: 0,
        }
    }

    /// Adds the descriptors that the server waits for.
    pub(crate) fn interests<'a>(&'a self, interests: &mut Interests<'a>) {
        interests.add(Token::ApiListener, self.listener.as_fd(), PollFlags::POLLIN);
        for (id, connection) in &self.connections {
            let (fd, events) = connection.interest();
            interests.add(Token::Api(*id), fd, events);
        }
        for (id, follower) in &self.followers {
            let (fd, events) = follower.interest();
            interests.add(Token::Api(*id), fd, events);
        }
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let connections = self.connections.iter().map(|(_, c)| c.deadline_ns());
        let followers = self.followers.iter().map(|(_, f)| f.deadline_ns());
        connections.chain(followers).fold(None, earlier)
    }

    /// Handles deadlines of clients that have passed.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        for (_, connection) in &mut self.connections {
            connection.tick(now_ns);
        }
        for (_, follower) in &mut self.followers {
            follower.tick(now_ns);
        }
        self.forget();
    }

    /// Handles a descriptor that is ready.
    pub(crate) fn ready(&mut self, token: Token, events: PollFlags, now_ns: u64) {
        match token {
            Token::ApiListener => self.accept(now_ns),
            Token::Api(id) => {
                if let Some(connection) = self.find(id) {
                    connection.ready(events, now_ns);
                }
                let mut followers = self.followers.iter_mut();
                if let Some((_, follower)) = followers.find(|(other, _)| *other == id) {
                    follower.ready(now_ns);
                }
            }
            _ => {}
        }
    }

    /// The next request to serve, of any client.
    pub(crate) fn next_command(&mut self, now_ns: u64) -> Option<(ConnectionId, Command)> {
        let next = self.connections.iter_mut().find_map(|(id, connection)| {
            let command = connection.next_command(now_ns)?;
            Some((*id, command))
        });
        self.forget();
        next
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, id: ConnectionId, response: &Response, now_ns: u64) {
        if let Some(connection) = self.find(id) {
            connection.answer(response, now_ns);
        }
        self.forget();
    }

    /// Answers a request with what it asks for, also what is still to come.
    pub(crate) fn follow(
        &mut self,
        id: ConnectionId,
        topic: Topic,
        sources: Sources<'_>,
        now_ns: u64,
    ) {
        if self.followers.len() >= FOLLOWERS_MAX {
            let reason = format!("{FOLLOWERS_MAX} clients follow events or the console");
            return self.answer(id, &Response::Refused(Refusal::new(503, reason)), now_ns);
        }
        let found = self.connections.iter().position(|(other, _)| *other == id);
        if let Some(found) = found {
            let (_, connection) = self.connections.swap_remove(found);
            let follower = Follower::new(connection.into_stream(), topic, now_ns);
            self.followers.push((id, follower));
            self.publish(sources, now_ns);
        }
    }

    /// Sends followers what they have not got yet.
    pub(crate) fn publish(&mut self, sources: Sources<'_>, now_ns: u64) {
        for (_, follower) in &mut self.followers {
            follower.give(sources, now_ns);
        }
        self.forget();
    }

    /// The VM has ended: sends the rest and ends the followers' answers.
    pub(crate) fn end(&mut self, sources: Sources<'_>, now_ns: u64) {
        self.publish(sources, now_ns);
        for (_, follower) in self.followers.drain(..) {
            follower.end(now_ns);
        }
    }

    /// The descriptor that came with the request being served.
    pub(crate) fn take_descriptor(&mut self, id: ConnectionId) -> Option<OwnedFd> {
        self.find(id)?.take_descriptor()
    }

    fn find(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let mut all = self.connections.iter_mut();
        all.find_map(|(other, connection)| (*other == id).then_some(connection))
    }

    fn forget(&mut self) {
        self.connections.retain(|(_, c)| !c.is_over());
        self.followers.retain(|(_, f)| !f.is_over());
    }

    fn accept(&mut self, now_ns: u64) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let present = self.connections.len() + self.followers.len();
        if present >= CONNECTIONS_MAX + REFUSALS_MAX {
            return;
        }
        let mut connection = Connection::new(stream, now_ns);
        if present >= CONNECTIONS_MAX {
            let reason = format!("{CONNECTIONS_MAX} clients are connected");
            connection.refuse(Refusal::new(503, reason), now_ns);
        }
        self.accepted += 1;
        let id = ConnectionId(self.accepted);
        self.connections.push((id, connection));
    }
}

#[cfg(test)]
#[path = "api/tests.rs"]
mod tests;

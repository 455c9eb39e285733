//! The connections: by the ports that packets name, and by the token that epoll gives.

use std::collections::HashMap;

use super::connection::Connection;

/// A connection's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    pub guest: u32,
    pub host: u32,
}

/// Names a connection, and never another one that has taken its place: an index below, and above it
/// how often that place was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

impl Token {
    /// Tokens from here on are never a connection's.
    pub const FIRST_FREE: u64 = 0xffff_ffff << 32;

    fn new(index: usize, generation: u32) -> Self {
        Token(u64::from(generation) << 32 | index as u64)
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// All connections of a device.
#[derive(Default)]
pub struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
    by_ports: HashMap<Ports, Token>,
}

impl Table {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a connection in; its ports, if it has any, are free.
    pub fn insert(&mut self, connection: Connection) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.generation = (slot.generation + 1) % (u32::MAX - 1);
        let token = Token::new(index, slot.generation);
        if let Some(ports) = connection.ports {
            self.by_ports.insert(ports, token);
        }
        slot.connection = Some(connection);
        token
    }

    /// The connection, if it's still there.
    pub fn get(&mut self, token: Token) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(token.index())?;
        let same = Token::new(token.index(), slot.generation) == token;
        slot.connection.as_mut().filter(|_| same)
    }

    /// Whose ports these are.
    pub fn find(&self, ports: Ports) -> Option<Token> {
        self.by_ports.get(&ports).copied()
    }

    /// Gives a connection its ports, which are free.
    pub fn set_ports(&mut self, token: Token, ports: Ports) {
        if let Some(connection) = self.get(token) {
            connection.ports = Some(ports);
            self.by_ports.insert(ports, token);
        }
    }

    /// Takes them away again: the guest may use them for something else.
    pub fn clear_ports(&mut self, token: Token) {
        if let Some(ports) = self.get(token).and_then(|c| c.ports.take()) {
            self.by_ports.remove(&ports);
        }
    }

    /// Takes a connection out.
    pub fn remove(&mut self, token: Token) -> Option<Connection> {
        let ports = self.get(token)?.ports;
        if let Some(ports) = ports {
            self.by_ports.remove(&ports);
        }
        let connection = self.slots[token.index()].connection.take();
        self.free.push(token.index());
        connection
    }

    /// Takes all out; how many there were.
    pub fn clear(&mut self) -> usize {
        let count = self.len();
        self.by_ports.clear();
        self.free.clear();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.connection = None;
            self.free.push(index);
        }
        count
    }
}

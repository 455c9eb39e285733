//! Packets from the guest, out of the transmit queue.

use std::io;

use virtio_queue::{Queue, QueueT};

use super::{BUDGET, Muxer, MuxerError, RSTS};
use crate::devices::virtio::queue::{pop, push_used};
use crate::devices::virtio::vsock::connection::{After, Connection, State};
use crate::devices::virtio::vsock::packet::{HEADER_LEN, HOST_CID, Header, STREAM, op};
use crate::devices::virtio::vsock::table::{Ports, Token};

impl Muxer {
    /// Takes packets from the guest; whether more are there.
    pub(super) fn take_packets(&mut self) -> Result<bool, MuxerError> {
        let Some(mut tx) = self.tx.take() else {
            return Ok(false);
        };
        let result = self.take_from(&mut tx.queue);
        self.tx = Some(tx);
        result
    }

    fn take_from(&mut self, queue: &mut Queue) -> Result<bool, MuxerError> {
        queue.disable_notification(&self.memory)?;
        for _ in 0..BUDGET {
            if self.rsts.len() >= RSTS {
                // The guest has to take some first; its buffers wake this thread.
                return Ok(false);
            }
            let memory = self.memory.clone();
            let Some((chain, _)) = pop(queue, &memory)? else {
                return Ok(queue.enable_notification(&self.memory)?);
            };
            let head = chain.head_index();
            self.buffers.load(chain)?;
            self.on_packet();
            self.given.counts.packets_from_guest.inc();
            self.interrupt_due |= push_used(queue, &self.memory, head, 0)?;
        }
        Ok(true)
    }

    /// A packet from the guest, in `buffers.readable`.
    fn on_packet(&mut self) {
        let mut bytes = [0; HEADER_LEN];
        if self.buffers.readable.read(&mut bytes) < HEADER_LEN {
            self.given.counts.dropped.inc();
            return self.driver_error("sends a packet without a whole header");
        }
        let header = Header::from_bytes(&bytes);
        if header.src_cid != self.given.cid || header.dst_cid != HOST_CID {
            self.given.counts.dropped.inc();
            return self.driver_error("sends a packet from or to another's CID");
        }
        let ports = Ports {
            guest: header.src_port,
            host: header.dst_port,
        };
        let token = match header.kind {
            STREAM => self.table.find(ports),
            _ => None,
        };
        match token {
            None if header.op == op::RST => {} // never answered, or two would go on for ever
            None if header.kind == STREAM && header.op == op::REQUEST => {
                self.connect(ports, &header);
            }
            // §5.10.6.4.2: an unknown type; or a connection that is over or never was.
            None => self.rst(ports, header.kind),
            Some(token) => self.on_connection_packet(token, &header),
        }
    }

    fn on_connection_packet(&mut self, token: Token, header: &Header) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        let before = connection.state;
        let after = connection.on_packet(header, &mut self.buffers.readable);
        let (now, since) = (connection.state, connection.since);
        let counts = &self.given.counts;
        match (before, now) {
            (State::Requested, State::Open) => {
                counts.from_host.inc();
                if let Some(since) = since {
                    counts.connect.record(since.elapsed());
                }
                self.forget_deadline(token);
            }
            (State::Requested, State::Requested) if header.op == op::RST => {
                counts.refused_by_guest.inc();
            }
            (State::Open, _) if header.op == op::RST => counts.resets.inc(),
            (State::Open, _) if header.op == op::RW && after == After::Goes => {
                counts.bytes_to_host.add(header.len.into());
            }
            _ => {}
        }
        if now == State::Draining {
            // The guest may use its port again.
            self.table.clear_ports(token);
        }
        self.settle(token, after);
    }

    /// The guest connects to a port of the host.
    fn connect(&mut self, ports: Ports, request: &Header) {
        let refused = match self.table.len() >= self.given.limits.connections {
            true => Err(io::Error::other("too many connections")),
            false => self.given.socket.connect_port(ports.host),
        };
        let inserted = match refused {
            Ok(socket) => self.insert(Connection::accepted(socket, ports, request)),
            Err(error) => {
                log::debug!("vsock: the guest connects to port {}: {error}", ports.host);
                self.given.counts.refused_by_host.inc();
                return self.rst(ports, STREAM);
            }
        };
        if let Some(token) = inserted {
            self.given.counts.from_guest.inc();
            self.settle(token, After::Goes);
        }
    }
}

//! Packets to the guest, into the receive queue; and the event that tells it of a reset.

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::{BUDGET, Muxer, MuxerError, Rst};
use crate::devices::virtio::queue::{pop, push_used};
use crate::devices::virtio::vsock::credit::BUF_ALLOC;
use crate::devices::virtio::vsock::packet::{HEADER_LEN, HOST_CID, Header, STREAM, op};
use crate::devices::virtio::vsock::table::Ports;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (§5.10.6.7).
const EVENT_TRANSPORT_RESET: u32 = 0;

impl Muxer {
    /// Gives the guest what there is for it; whether more could be given at once.
    pub(super) fn give_packets(&mut self) -> Result<bool, MuxerError> {
        let Some(mut rx) = self.rx.take() else {
            return Ok(false);
        };
        let result = self.give_to(&mut rx.queue);
        self.rx = Some(rx);
        result
    }

    fn give_to(&mut self, queue: &mut Queue) -> Result<bool, MuxerError> {
        queue.disable_notification(&self.memory)?;
        let memory = self.memory.clone();
        for _ in 0..BUDGET {
            if self.has_nothing() {
                break;
            }
            let Some((chain, _)) = pop(queue, &memory)? else {
                break;
            };
            let head = chain.head_index();
            self.buffers.load(chain)?;
            let Some(len) = self.give_one()? else {
                queue.go_to_previous_position();
                break;
            };
            self.given.counts.packets_to_guest.inc();
            self.interrupt_due |= push_used(queue, &memory, head, len)?;
        }
        // Without something to send, buffers are no news.
        Ok(!self.has_nothing() && queue.enable_notification(&memory)?)
    }

    fn has_nothing(&self) -> bool {
        self.rsts.is_empty() && self.ready.is_empty()
    }

    /// Fills the buffer that is loaded with one packet; its length. `None` if there is nothing to send.
    fn give_one(&mut self) -> Result<Option<u32>, MuxerError> {
        let size = self.buffers.writable.len();
        let Some(room) = size.checked_sub(HEADER_LEN) else {
            return Err(MuxerError::Room(size));
        };
        // The header stays in `writable`; `tail` is for the data.
        self.buffers.split_tail(room);
        let Some(header) = self.next_packet(size)? else {
            return Ok(None);
        };
        self.buffers.writable.write(&header.to_bytes());
        Ok(Some(HEADER_LEN as u32 + header.len))
    }

    fn next_packet(&mut self, size: usize) -> Result<Option<Header>, MuxerError> {
        let from_host = |ports: Ports| Header {
            src_cid: HOST_CID,
            dst_cid: self.given.cid,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: STREAM,
            ..Header::default()
        };
        if let Some(Rst { ports, kind }) = self.rsts.pop_front() {
            return Ok(Some(Header {
                kind,
                op: op::RST,
                ..from_host(ports)
            }));
        }
        while let Some(token) = self.ready.pop_front() {
            let Some(connection) = self.table.get(token) else {
                continue; // ended since
            };
            connection.queued = false;
            let packet = connection.next_packet(&mut self.buffers.tail);
            let packet = packet.map_err(|_| MuxerError::Room(size))?;
            if connection.wants_turn() {
                connection.queued = true;
                self.ready.push_back(token);
            }
            if let (Some(packet), Some(ports)) = (packet, connection.ports) {
                self.given.counts.bytes_to_guest.add(packet.len.into());
                return Ok(Some(Header {
                    op: packet.op,
                    flags: packet.flags,
                    len: packet.len,
                    buf_alloc: BUF_ALLOC,
                    fwd_cnt: connection.credit.tell(),
                    ..from_host(ports)
                }));
            }
        }
        Ok(None)
    }

    /// Tells the guest that all of its connections are gone, once it has given a buffer for that.
    pub(super) fn tell_reset(&mut self) -> Result<(), MuxerError> {
        let Some(event) = self.event.as_mut().filter(|_| self.reset_due) else {
            return Ok(());
        };
        let queue = &mut event.queue;
        let (chain, _) = loop {
            if let Some(chain) = pop(queue, &self.memory)? {
                break chain;
            }
            if !queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        };
        let head = chain.head_index();
        self.buffers.load(chain)?;
        let room = self.buffers.writable.len();
        let bytes = EVENT_TRANSPORT_RESET.to_le_bytes();
        if self.buffers.writable.write(&bytes) < bytes.len() {
            return Err(MuxerError::Room(room));
        }
        self.interrupt_due |= push_used(queue, &self.memory, head, bytes.len() as u32)?;
        self.reset_due = false;
        Ok(())
    }
}

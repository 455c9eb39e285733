//! A console: output, input that comes early or late, and a terminal that changes its size.

use std::fmt::Display;
use std::fs::OpenOptions;

use arbitrary::Unstructured;

use super::*;
use crate::devices::console::InputPort;
use crate::devices::virtio::fuzzing::{Handlers, Served, drive};

struct Terminal {
    printer: Handlers<Printer>,
    input: Arc<HvcInput>,
    window: Arc<Window>,
}

impl Served for Terminal {
    fn turn(&mut self) -> Result<(), Box<dyn Display>> {
        self.printer.turn()
    }

    fn host(&mut self, what: u8, data: &[u8]) {
        match what % 3 {
            0 => assert!(self.input.enqueue(data) <= data.len()),
            1 => self.input.look_for_driver(),
            _ => self.window.set_size(what.into(), data.len() as u16),
        }
    }
}

/// A console, its driver and its terminal.
pub fn console(data: &[u8]) {
    // One for all: it has a thread of its own.
    thread_local! {
        static OUTPUT: Arc<Mutex<Output>> = {
            let nowhere = OpenOptions::new().write(true).open("/dev/null");
            Arc::new(Mutex::new(Output::new(nowhere.unwrap()).unwrap().0))
        };
    }
    let counts = Arc::new(Counts::default());
    let device = ConsoleDevice {
        output: OUTPUT.with(Arc::clone),
        input: Arc::new(HvcInput::new(counts.clone()).unwrap()),
        window: Arc::new(Window::new(80, 24)),
        counts,
        printer: None,
    };
    drive(
        &mut Unstructured::new(data),
        device,
        |device, mut activation| {
            let (memory, interrupt) = (activation.memory.clone(), activation.interrupt.clone());
            if let Some(at) = activation
                .queues
                .iter()
                .position(|queue| queue.index == RECEIVE)
            {
                let queue = activation.queues.remove(at);
                device.input.go_live(queue, memory, interrupt.clone());
            }
            if activation.features & F_SIZE != 0 {
                device.window.go_live(interrupt);
            }
            let printer = || Printer {
                output: device.output.clone(),
                counts: device.counts.clone(),
            };
            Box::new(Terminal {
                printer: Handlers::new(activation, printer),
                input: device.input.clone(),
                window: device.window.clone(),
            })
        },
    );
}

//! The terminal's size, on its way to the guest.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::Interrupt;

/// The size of the terminal that a console leads to.
pub struct Window {
    state: Mutex<State>,
}

struct State {
    columns: u16,
    rows: u16,
    /// The way to the driver, while there is one that wants to know.
    live: Option<Arc<Interrupt>>,
}

impl Window {
    pub(super) fn new(columns: u16, rows: u16) -> Self {
        let live = None;
        Window {
            state: Mutex::new(State {
                columns,
                rows,
                live,
            }),
        }
    }

    /// Tells the guest of another size.
    pub fn set_size(&self, columns: u16, rows: u16) {
        let mut state = self.lock();
        if (state.columns, state.rows) == (columns, rows) {
            return;
        }
        (state.columns, state.rows) = (columns, rows);
        if let Some(interrupt) = &state.live {
            interrupt.set_config(0, &state.config());
        }
    }

    /// The configuration space (§5.3.4): columns, rows.
    pub(super) fn config(&self) -> [u8; 4] {
        self.lock().config()
    }

    /// From now on a change reaches the driver; one of before reaches it here.
    pub(super) fn go_live(&self, interrupt: Arc<Interrupt>) {
        let mut state = self.lock();
        interrupt.set_config(0, &state.config());
        state.live = Some(interrupt);
    }

    pub(super) fn reset(&self) {
        self.lock().live = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn config(&self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.columns.to_le_bytes(), self.rows.to_le_bytes());
        [a, b, c, d]
    }
}

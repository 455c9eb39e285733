//! How far a bench is, on standard error, where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A line that is written anew after each step. Dropping it takes the line away.
pub struct Progress(ProgressBar);

impl Progress {
    /// Of `total` steps, which are called `what`.
    pub fn of(total: u32, what: &str) -> Self {
        // indicatif draws on standard error, and nothing where that is no terminal.
        let bar = ProgressBar::new(total.into());
        let template = format!("[{{bar:30}}] {{pos}}/{{len}} {what}, {{eta}} left {{msg}}");
        match ProgressStyle::with_template(&template) {
            Ok(style) => Progress(bar.with_style(style.progress_chars("#>-"))),
            Err(_) => Progress(bar),
        }
    }

    /// One more step is done; from any thread.
    pub fn step(&self) {
        self.0.inc(1);
    }

    /// So many steps are done.
    pub fn done(&self, steps: u32) {
        self.0.set_position(steps.into());
    }

    /// Says what is going on besides the steps.
    pub fn say(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        self.0.set_message(what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

//! Where a build's lines go.

use std::sync::Arc;

use image_plan::Place;

use crate::request::{BuildLog, LogStream};

/// Receives lines. Called from whichever thread reads the output, so it must not block.
#[derive(Clone)]
pub struct LogSink(Arc<dyn Fn(BuildLog) + Send + Sync>);

impl LogSink {
    pub fn new(receive: impl Fn(BuildLog) + Send + Sync + 'static) -> Self {
        Self(Arc::new(receive))
    }

    pub fn discard() -> Self {
        Self::new(|_| {})
    }

    pub fn send(&self, log: BuildLog) {
        (self.0)(log);
    }

    /// Announces a step.
    pub fn step(&self, place: &Place, title: &str) {
        let stream = LogStream::Step { number: place.number, total: place.total };
        self.send(BuildLog { text: place.header(title), stream });
    }

    /// A line from the builder itself.
    pub fn say(&self, text: impl Into<String>) {
        self.send(BuildLog { text: text.into(), stream: LogStream::Builder });
    }
}

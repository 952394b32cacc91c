//! Work on threads that may block, and how it is stopped.
//!
//! A build that is given up is a future that is dropped, and containers and downloads end with it. A thread that copies or
//! unpacks cannot be dropped: it is told to stop, and looks before each file and between two pieces of one. Until it has
//! seen that, it holds its [`Workspace`](crate::store::Workspace), so that the folder is removed after its last write.
//!
//! Walks that only look at names (for uncompiled Python files, say) are not interrupted: they write nothing, and take
//! seconds in the largest images.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::BuildError;

/// A disk writes as much in well under a second.
const PIECE: u64 = 32 << 20;

/// Whether anybody still waits for the work.
#[derive(Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When the work is to end here.
    pub fn check(&self) -> io::Result<()> {
        match self.is_asked() {
            true => Err(io::Error::other("the build was stopped")),
            false => Ok(()),
        }
    }

    /// Copies all that follows, in the kernel where that can. By pieces, since that cannot be interrupted.
    pub fn copy_file(&self, from: File, mut to: File) -> io::Result<()> {
        loop {
            self.check()?;
            if io::copy(&mut (&from).take(PIECE), &mut to)? == 0 {
                return Ok(());
            }
        }
    }

    /// `inner`, which cannot be read any further once the work is to end.
    pub fn reader<R: Read>(&self, inner: R) -> StoppableReader<R> {
        StoppableReader { inner, stop: self.clone() }
    }
}

pub(crate) struct StoppableReader<R> {
    inner: R,
    stop: Stop,
}

impl<R: Read> Read for StoppableReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        self.inner.read(buffer)
    }
}

/// Tells the work to stop when its future goes away.
pub(crate) struct StopOnDrop(pub Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a thread of its own. Dropping the future asks it to stop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    let stop = Stop::default();
    let told = stop.clone();
    let _stop_when_dropped = StopOnDrop(stop);
    tokio::task::spawn_blocking(move || work(&told)).await.unwrap_or(Err(BuildError::Abandoned))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_whose_future_is_dropped_reads_no_further() {
        let (ended, mut end) = tokio::sync::oneshot::channel();
        let work = blocking(move |stop| {
            let endless = io::copy(&mut stop.reader(io::repeat(0)), &mut io::sink());
            let _ = ended.send(endless.is_err());
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        assert!(tokio::time::timeout(Duration::from_secs(20), &mut end).await.unwrap().unwrap());
    }
}

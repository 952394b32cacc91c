//! Open files: what is read of the store and what is sent to it.

mod closing;
mod memory;
mod process;
mod reader;
mod window;
mod writer;

pub use memory::Memory as WriteMemory;
pub use process::{is_killed, process_of};
pub use reader::{Memory as ReadMemory, Reader};
pub use writer::{MEMORY_PATIENCE, WriteError, Writer};

//! What the machine has left for containers, and which functions wait for room.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use types::ids::FunctionId;
use worker_protocol::Capacity;

use crate::owner::Owner;
use crate::shared::Shared;

/// Thousandths of a core and MiB of memory.
pub type Request = (u32, u64);

pub struct CapacityPool {
    total: Capacity,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used_milli_cpu: u64,
    used_memory_mib: u64,
    waiting: HashMap<FunctionId, Arc<Owner>>,
}

impl CapacityPool {
    pub fn new(total: Capacity) -> Self {
        Self { total, state: Mutex::default() }
    }

    /// # Errors
    /// A sentence for the user when no machine here is big enough.
    pub fn could_ever_fit(&self, (milli_cpu, memory_mib): Request) -> Result<(), String> {
        if milli_cpu <= self.total.milli_cpu && memory_mib <= self.total.memory_mib {
            return Ok(());
        }
        let cores = |milli: u32| f64::from(milli) / 1000.0;
        Err(format!(
            "the function asks for {} cores and {memory_mib} MiB of memory, but the biggest worker has {} cores and {} MiB; \
             lower `cpu=` or `memory=`, or add a bigger machine",
            cores(milli_cpu),
            cores(self.total.milli_cpu),
            self.total.memory_mib
        ))
    }

    /// Sets resources aside; if there are not enough, remembers that the function waits.
    pub fn reserve(&self, (milli_cpu, memory_mib): Request, owner: &Arc<Owner>) -> bool {
        let mut state = self.state.lock();
        let fits = state.used_milli_cpu + u64::from(milli_cpu) <= u64::from(self.total.milli_cpu)
            && state.used_memory_mib + memory_mib <= self.total.memory_mib;
        if fits {
            state.used_milli_cpu += u64::from(milli_cpu);
            state.used_memory_mib += memory_mib;
        } else {
            state.waiting.insert(owner.id.clone(), owner.clone());
        }
        fits
    }

    /// Gives resources back and wakes who waits.
    pub fn release(&self, (milli_cpu, memory_mib): Request, shared: &Arc<Shared>) {
        let waiting = {
            let mut state = self.state.lock();
            state.used_milli_cpu -= u64::from(milli_cpu);
            state.used_memory_mib -= memory_mib;
            std::mem::take(&mut state.waiting)
        };
        for owner in waiting.into_values() {
            owner.wake(shared);
        }
    }
}

//! Which calls the code of an input has made, for the call graph.
//!
//! An entry comes and goes with the child: a parent that makes a million calls one after the other holds those that are in
//! memory, and one that is long over, or was never here, holds nothing that its children do not.

use std::collections::BTreeSet;

use calls::Millis;
use dashmap::DashMap;
use types::ids::{FunctionCallId, InputId};

#[derive(Default)]
pub struct Children {
    /// Oldest first.
    by_parent: DashMap<InputId, BTreeSet<(Millis, FunctionCallId)>>,
}

impl Children {
    pub fn add(&self, parent: &InputId, created_at: Millis, call: &FunctionCallId) {
        self.by_parent.entry(parent.clone()).or_default().insert((created_at, call.clone()));
    }

    pub fn remove(&self, parent: &InputId, created_at: Millis, call: &FunctionCallId) {
        if let Some(mut children) = self.by_parent.get_mut(parent) {
            children.remove(&(created_at, call.clone()));
        }
        self.by_parent.remove_if(parent, |_, children| children.is_empty());
    }

    pub fn of(&self, parent: &InputId) -> Vec<FunctionCallId> {
        let children = self.by_parent.get(parent);
        children.map(|children| children.iter().map(|(_, call)| call.clone()).collect()).unwrap_or_default()
    }

    /// Parents that have children here.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_parent.len()
    }

    pub fn shrink(&self) {
        if self.by_parent.capacity() / 4 > self.by_parent.len() {
            self.by_parent.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parents_entry_goes_with_its_last_child() {
        let (children, parent) = (Children::default(), InputId::random());
        let [first, second] = [(); 2].map(|()| FunctionCallId::random());
        children.add(&parent, 2, &second);
        children.add(&parent, 1, &first);
        // A repeated request.
        children.add(&parent, 1, &first);
        assert_eq!(children.of(&parent), [first.clone(), second.clone()]);
        children.remove(&parent, 1, &first);
        assert_eq!(children.of(&parent).as_slice(), std::slice::from_ref(&second));
        children.remove(&parent, 2, &second);
        assert!(children.of(&parent).is_empty() && children.by_parent.is_empty());
    }
}

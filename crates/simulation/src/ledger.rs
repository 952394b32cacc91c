//! The account of what happened, kept by a bystander who sees everything, and the invariants checked against it.

use std::collections::{BTreeMap, BTreeSet};

use calls::{Assignment, FinishedOutput, MAX_SYSTEM_RETRIES, OutcomeStatus, Policy};
use types::ids::{InputId, TaskId};

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The output of each input, as the first reader got it.
    seen: BTreeMap<InputId, FinishedOutput>,
    /// What containers have said of attempts that they were handed.
    said: BTreeSet<String>,
    /// Attempts handed out, by life of the server.
    handed: BTreeSet<(usize, InputId, u32)>,
    /// Reports taken that count against the user's retries, by life of the server.
    answered: BTreeMap<(usize, InputId), u32>,
    /// Inputs of durable calls whose acceptance was acknowledged.
    pub(crate) promised: BTreeSet<InputId>,
}

impl Ledger {
    /// A container took an input in, and now holds `held`.
    pub(crate) fn on_handed(&mut self, epoch: usize, assignment: &Assignment, policy: &Policy) {
        let Assignment { input, attempt, .. } = assignment;
        assert!(*attempt <= policy.retry.retries + MAX_SYSTEM_RETRIES, "attempt {attempt} of `{input}`");
        self.handed.insert((epoch, input.clone(), *attempt));
    }

    pub(crate) fn on_said(&mut self, what: &str) {
        self.said.insert(what.to_owned());
    }

    /// The server took a container's report.
    pub(crate) fn on_taken(
        &mut self,
        epoch: usize,
        input: &InputId,
        attempt: u32,
        status: OutcomeStatus,
        policy: &Policy,
    ) {
        assert!(
            self.handed.contains(&(epoch, input.clone(), attempt)),
            "attempt {attempt} of `{input}` was not handed out"
        );
        if matches!(status, OutcomeStatus::Success | OutcomeStatus::Failure) {
            let answered = self.answered.entry((epoch, input.clone())).or_insert(0);
            *answered += 1;
            assert!(*answered <= 1 + policy.retry.retries, "`{input}` was tried too often");
        }
    }

    /// A caller read an output.
    pub(crate) fn on_seen(&mut self, output: &FinishedOutput) {
        let first = self.seen.entry(output.input.clone()).or_insert_with(|| output.clone());
        assert_eq!(first, output, "two outputs of one input");
        if output.outcome.status == OutcomeStatus::Success {
            let text = &output.outcome.exception;
            assert!(self.said.contains(text), "nobody said `{text}`");
            assert!(text.contains(output.input.as_str()), "`{}` has the output of another input", output.input);
        }
    }

    /// No caller is left.
    pub(crate) fn check_promises(&self) {
        for input in &self.promised {
            assert!(self.seen.contains_key(input), "`{input}` was accepted and has no output");
        }
    }

    pub(crate) fn attempts(&self) -> usize {
        self.handed.len()
    }

    pub(crate) fn retries(&self) -> usize {
        self.handed.iter().filter(|(.., attempt)| *attempt > 0).count()
    }

    pub(crate) fn outputs(&self) -> usize {
        self.seen.len()
    }
}

/// The output that a container makes of an attempt; unique, so that a mix-up shows.
pub(crate) fn said(task: &TaskId, input: &InputId, attempt: u32) -> String {
    format!("{input} {attempt} {task}")
}

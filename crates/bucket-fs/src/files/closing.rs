//! Whether a file that nobody has open any more was written to its end.
//!
//! Several processes may have one file open: a shell opens it for a program, a program hands it to its children. Each of
//! them closes its copy when it ends, also when it is killed in the middle. So it counts who closed the file last, and
//! whether something was written after that.

/// How the file's copies were closed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Closing {
    /// Nobody has closed it since it was last written to.
    #[default]
    Open,
    Closed,
    /// By a process that was killed.
    Killed,
}

impl Closing {
    pub fn on_write(&mut self) {
        *self = Self::Open;
    }

    pub fn on_kill(&mut self) {
        *self = Self::Killed;
    }

    /// A living process closed its copy. One that was only given the file does not know that its writer was killed.
    pub fn on_close(&mut self, by_opener: bool) {
        if by_opener || *self != Self::Killed {
            *self = Self::Closed;
        }
    }

    /// Whether what was written is to be given up. `over`: the mount answers nobody any more, so that a program that has
    /// not closed the file was not done with it.
    pub fn is_cut_off(self, over: bool) -> bool {
        match self {
            Self::Open => over,
            Self::Closed => false,
            Self::Killed => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(events: &str) -> Closing {
        let mut closing = Closing::default();
        for event in events.chars() {
            match event {
                'w' => closing.on_write(),
                'o' => closing.on_close(true),
                'c' => closing.on_close(false),
                'k' => closing.on_kill(),
                _ => unreachable!("{event}"),
            }
        }
        closing
    }

    #[test]
    fn a_file_is_whole_when_the_last_one_who_had_to_do_with_it_lived() {
        for whole in ["wo", "wc", "owc", "wkwc", "ko", "wco"] {
            assert!(!after(whole).is_cut_off(false) && !after(whole).is_cut_off(true), "{whole}");
        }
        for partial in ["wk", "owk", "wkc", "wck"] {
            assert!(after(partial).is_cut_off(false), "{partial}");
        }
    }

    #[test]
    fn what_is_open_when_the_mount_is_over_was_not_done() {
        for open in ["", "w", "ow", "cw"] {
            assert!(after(open).is_cut_off(true) && !after(open).is_cut_off(false), "{open}");
        }
    }
}

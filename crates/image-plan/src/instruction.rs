//! A Dockerfile instruction as written: split into its parts, nothing substituted yet.

use crate::error::Position;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    pub position: Position,
    /// The instruction on one line, for logs.
    pub text: String,
    /// The file's escape character, which also counts when variables are substituted.
    pub escape: char,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    From {
        flags: Vec<Flag>,
        image: String,
        image_position: Position,
        /// In lower case: stages are found whatever the case.
        stage: Option<String>,
    },
    Run {
        flags: Vec<Flag>,
        command: Command,
        heredocs: Vec<Heredoc>,
    },
    Copy {
        flags: Vec<Flag>,
        sources: Vec<String>,
        dest: String,
        heredocs: Vec<Heredoc>,
    },
    Add {
        flags: Vec<Flag>,
        sources: Vec<String>,
        dest: String,
        heredocs: Vec<Heredoc>,
    },
    Env(Vec<(String, String)>),
    Arg(Vec<(String, Option<String>)>),
    Workdir(String),
    User(String),
    Shell(Vec<String>),
    Entrypoint(Command),
    Cmd(Command),
    Label(Vec<(String, String)>),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    /// Kept as written: no part of an image's content or start depends on it here.
    Healthcheck(String),
    Maintainer(String),
}

/// The two forms of RUN, CMD and ENTRYPOINT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Shell(String),
    Exec(Vec<String>),
}

/// `--name=value` between an instruction's name and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    pub name: String,
    pub value: Option<String>,
    pub position: Position,
}

/// `<<WORD` and the lines up to `WORD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// The file descriptor digits before `<<`, usually none.
    pub descriptor: String,
    /// False when the word was quoted: nothing in the body is substituted.
    pub expand: bool,
    /// True for `<<-`: leading tabs are dropped.
    pub strip_tabs: bool,
    pub body: String,
}

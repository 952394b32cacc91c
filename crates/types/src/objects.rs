//! Objects that programs keep things in, of whatever kind: they are named, found, listed, renamed and deleted alike.

/// What an object is. Each kind has its own prefix of ids, and names of its own: a volume and a dict may be called alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    Volume,
    Dict,
    Queue,
    /// The protocol's word for a network file system.
    SharedVolume,
}

impl ObjectKind {
    pub const ALL: [Self; 4] = [Self::Volume, Self::Dict, Self::Queue, Self::SharedVolume];

    /// What ids of this kind begin with, without the dash.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Volume => "vo",
            Self::Dict => "di",
            Self::Queue => "qu",
            Self::SharedVolume => "sv",
        }
    }

    /// As messages to people say it in the middle of a sentence.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Dict => "dict",
            Self::Queue => "queue",
            Self::SharedVolume => "network file system",
        }
    }

    /// The same as the client's own class is called; some clients look for it in messages.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Volume => "Volume",
            Self::Dict => "Dict",
            Self::Queue => "Queue",
            Self::SharedVolume => "NetworkFileSystem",
        }
    }

    /// The client's command for this kind.
    pub const fn command(self) -> &'static str {
        match self {
            Self::Volume => "modal volume",
            Self::Dict => "modal dict",
            Self::Queue => "modal queue",
            Self::SharedVolume => "modal nfs",
        }
    }
}

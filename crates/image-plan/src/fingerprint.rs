//! A step's fingerprint; the table in `plan.rs` says what goes in.

use crate::copy::{ContextPart, CopyItem, CopySource};
use crate::key::{KeyHasher, LayerKey};
use crate::mode::ModeChange;
use crate::mount::{Owned, Sharing};
use crate::plan::{Action, CopyFrom, Facts, Mount};
use crate::recipe::Origin;

pub(crate) fn fingerprint(action: &Action, facts: &Facts) -> LayerKey {
    match action {
        Action::Run { argv, env, unkeyed_env: _, workdir, user, network, mounts } => {
            let mut names: Vec<&String> = facts.secret_names.iter().collect();
            names.sort();
            let hasher = KeyHasher::new("run")
                .list(argv)
                .list(env.iter().map(|(name, value)| format!("{name}={value}")))
                .field(workdir)
                .field(optional(user))
                .field([u8::from(*network)])
                .list(names);
            let hasher = mounts.iter().fold(hasher, |hasher, mount| mount_fields(hasher, mount, facts));
            facts.volumes.iter().fold(hasher, |hasher, volume| volume.add_to(hasher)).finish()
        }
        Action::Copy { items, owner, mode } => {
            let start = KeyHasher::new("copy").field(optional(owner)).field(mode_text(mode));
            items.iter().fold(start, |hasher, item| copy_item_fields(hasher, item, facts)).finish()
        }
        Action::CopyFrom(CopyFrom { origin, sources, dest, dest_is_folder, exclude, owner, mode }) => {
            origin_field(KeyHasher::new("copy from"), origin)
                .list(sources)
                .field(dest)
                .field([u8::from(*dest_is_folder)])
                .list(exclude)
                .field(optional(owner))
                .field(mode_text(mode))
                .finish()
        }
        Action::MakeFolder { path } => KeyHasher::new("folder").field(path).finish(),
    }
}

fn optional(value: &Option<String>) -> String {
    value.as_deref().map_or(String::new(), |value| format!("={value}"))
}

fn mode_text(mode: &Option<ModeChange>) -> String {
    mode.as_ref().map(ModeChange::to_string).unwrap_or_default()
}

/// A stage's name and number say nothing of its content, which is one of the step's inputs.
fn origin_field(hasher: KeyHasher, origin: &Origin) -> KeyHasher {
    match origin {
        Origin::Image(name) => hasher.field("image").field(name),
        Origin::Stage(_) => hasher.field("stage"),
    }
}

fn copy_item_fields(hasher: KeyHasher, item: &CopyItem, facts: &Facts) -> KeyHasher {
    let hasher = hasher.field(&item.dest).field(item.name_within_folder.as_deref().unwrap_or_default());
    let hasher = match &item.unpack_into {
        Some(folder) => hasher.field("unpack").field(folder),
        None => hasher,
    };
    match &item.source {
        CopySource::Context(index) => context_file(hasher, *index, facts),
        CopySource::Inline(body) => hasher.field("inline").field(body),
        CopySource::Folder => hasher.field("folder"),
        CopySource::Url { url, checksum } => hasher.field("url").field(url).field(optional(checksum)),
    }
}

fn context_file(hasher: KeyHasher, index: usize, facts: &Facts) -> KeyHasher {
    let file = &facts.context[index];
    hasher.field("file").field(&file.digest).field(format!("{:o}", file.mode))
}

fn owned_fields(hasher: KeyHasher, owned: &Owned) -> KeyHasher {
    hasher.field(format!("{}:{}:{:o}", owned.uid, owned.gid, owned.mode))
}

/// What a cache holds, and a secret's value, are left out.
fn mount_fields(hasher: KeyHasher, mount: &Mount, facts: &Facts) -> KeyHasher {
    match mount {
        Mount::Cache { id, target, sharing, owned, read_only } => {
            let sharing = match sharing {
                Sharing::Shared => "shared",
                Sharing::Private => "private",
                Sharing::Locked => "locked",
            };
            let hasher = hasher.field("cache").field(id).field(target).field(sharing).field([u8::from(*read_only)]);
            owned_fields(hasher, owned)
        }
        Mount::Secret { id, target, env, owned } => {
            owned_fields(hasher.field("secret").field(id).field(optional(target)).field(optional(env)), owned)
        }
        Mount::Context { part, target, writable } => {
            let hasher = hasher.field("context").field(target).field([u8::from(*writable)]);
            match part {
                ContextPart::File(index) => context_file(hasher.field("one"), *index, facts),
                ContextPart::Folder(files) => files.iter().fold(hasher.field("many"), |hasher, (index, path)| {
                    context_file(hasher.field(path), *index, facts)
                }),
            }
        }
        Mount::Origin { origin, source, target, writable } => {
            origin_field(hasher.field("bind"), origin).field(source).field(target).field([u8::from(*writable)])
        }
        Mount::Tmpfs { target, size_bytes } => {
            hasher.field("tmpfs").field(target).field(size_bytes.map(|size| size.to_string()).unwrap_or_default())
        }
    }
}

//! Volumes, dicts, queues and network file systems by id and by name: what they have in common, whatever is in them.
//!
//! An object with a name stays until it is deleted. One without belongs to an app and goes with it, or to a client that
//! says every few minutes that it still wants it.

use std::sync::Arc;
use std::time::Duration;

use calls::Millis;
use client_protocol::wire::ObjectCreationType;
use dashmap::DashMap;
use metadata_store::{ObjectRecord, Write};
use types::errors::with_causes;
use types::ids::{AppId, EnvironmentId, random_base62};
use types::objects::ObjectKind;

use crate::clock::steady_ms;
use crate::shared::Shared;

/// Clients report every 300 seconds: two reports may get lost.
const SILENCE_MS: Millis = 15 * 60_000;
/// A look for silent ones costs nothing; they need not go to the second.
const LOOK_EVERY: Duration = Duration::from_secs(60);

type NameKey = (EnvironmentId, ObjectKind, String);

#[derive(Default)]
pub struct Objects {
    by_id: DashMap<String, Arc<ObjectRecord>>,
    by_name: DashMap<NameKey, String>,
    /// When the client of an object without name and app was heard of last.
    heard: DashMap<String, Millis>,
    /// Held while a name is looked for and taken.
    pub naming: tokio::sync::Mutex<()>,
}

impl Objects {
    pub fn insert(&self, record: ObjectRecord, now: Millis) {
        if let Some(name) = &record.name {
            self.by_name.insert((record.environment.clone(), record.kind, name.clone()), record.id.clone());
        } else if record.app.is_none() {
            self.heard.insert(record.id.clone(), now);
        }
        self.by_id.insert(record.id.clone(), Arc::new(record));
    }

    pub fn remove(&self, id: &str) -> Option<Arc<ObjectRecord>> {
        let (_, record) = self.by_id.remove(id)?;
        self.heard.remove(id);
        if let Some(name) = &record.name {
            let key = (record.environment.clone(), record.kind, name.clone());
            self.by_name.remove_if(&key, |_, named| named == id);
        }
        Some(record)
    }

    /// Replaces the record of an object that got another name.
    pub fn rename(&self, record: ObjectRecord, now: Millis) {
        self.remove(&record.id);
        self.insert(record, now);
    }

    pub fn get(&self, kind: ObjectKind, id: &str) -> Option<Arc<ObjectRecord>> {
        self.by_id.get(id).filter(|record| record.kind == kind).map(|record| record.clone())
    }

    pub fn by_name(&self, environment: &EnvironmentId, kind: ObjectKind, name: &str) -> Option<Arc<ObjectRecord>> {
        let id = self.by_name.get(&(environment.clone(), kind, name.to_owned()))?.clone();
        self.get(kind, &id)
    }

    pub fn all(&self, is_wanted: impl Fn(&ObjectRecord) -> bool) -> Vec<Arc<ObjectRecord>> {
        self.by_id.iter().filter(|record| is_wanted(record)).map(|record| record.clone()).collect()
    }

    /// Its client still wants it.
    pub fn note_heartbeat(&self, id: &str, now: Millis) {
        if let Some(mut heard) = self.heard.get_mut(id) {
            *heard = now;
        }
    }

    fn silent(&self, now: Millis) -> Vec<String> {
        self.heard.iter().filter(|heard| *heard.value() + SILENCE_MS < now).map(|heard| heard.key().clone()).collect()
    }
}

/// What a request for an object comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// The one of that name.
    Existing,
    /// A new one with the name.
    Named,
    /// A new one without.
    Nameless,
    Missing,
    Taken,
    /// Clients ask this of secrets only: it would throw away what is in the object.
    Overwrite,
}

pub fn decide_creation(kind: ObjectCreationType, is_known: bool) -> Creation {
    match (kind, is_known) {
        (ObjectCreationType::AnonymousOwnedByApp | ObjectCreationType::Ephemeral, _) => Creation::Nameless,
        (ObjectCreationType::CreateOverwriteIfExists, _) => Creation::Overwrite,
        (ObjectCreationType::Unspecified | ObjectCreationType::CreateIfMissing, true) => Creation::Existing,
        (ObjectCreationType::Unspecified, false) => Creation::Missing,
        (ObjectCreationType::CreateFailIfExists, true) => Creation::Taken,
        (ObjectCreationType::CreateIfMissing | ObjectCreationType::CreateFailIfExists, false) => Creation::Named,
    }
}

/// A new id of this kind.
pub fn random_id(kind: ObjectKind) -> String {
    format!("{}-{}", kind.prefix(), random_base62(22))
}

impl Shared {
    /// Takes objects away whose owner has gone.
    pub fn forget_objects(self: &Arc<Self>, is_over: impl Fn(&ObjectRecord) -> bool) {
        for record in self.objects.all(is_over) {
            self.forget_object(&record.id);
        }
    }

    fn forget_object(self: &Arc<Self>, id: &str) {
        if let Some(record) = self.objects.remove(id) {
            self.store.write_later(vec![Write::DeleteObject(record.id.clone())]);
            self.on_object_gone(&record);
        }
    }

    pub fn forget_objects_of(self: &Arc<Self>, app: &AppId) {
        self.forget_objects(|record| record.app.as_ref() == Some(app));
    }

    /// The record is gone, and so is what was in it.
    pub fn on_object_gone(self: &Arc<Self>, record: &ObjectRecord) {
        match record.kind {
            ObjectKind::Dict | ObjectKind::Queue => self.forget_contents(record),
            ObjectKind::Volume => {
                let (shared, id) = (self.clone(), record.id.clone());
                tokio::spawn(async move {
                    if let Err(error) = shared.volumes.with(move |store| store.delete(&id)).await {
                        tracing::warn!(error = with_causes(&error), "a deleted volume's files could not be removed");
                    }
                });
            }
            ObjectKind::SharedVolume => self.remove_shared_files(&record.id),
        }
    }

    /// Looks for objects whose client fell silent.
    pub async fn object_reaper_loop(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for id in self.objects.silent(steady_ms()) {
                self.forget_object(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, name: Option<&str>, environment: &EnvironmentId) -> ObjectRecord {
        ObjectRecord {
            id: id.to_owned(),
            kind: ObjectKind::Dict,
            environment: environment.clone(),
            name: name.map(str::to_owned),
            app: None,
            version: 0,
            created_at_ms: 1,
        }
    }

    #[test]
    fn a_name_is_looked_up_made_or_refused_as_the_client_asked() {
        use ObjectCreationType as Kind;
        assert_eq!(decide_creation(Kind::Unspecified, false), Creation::Missing);
        assert_eq!(decide_creation(Kind::CreateIfMissing, true), Creation::Existing);
        assert_eq!(decide_creation(Kind::CreateIfMissing, false), Creation::Named);
        assert_eq!(decide_creation(Kind::CreateFailIfExists, true), Creation::Taken);
        assert_eq!(decide_creation(Kind::Ephemeral, true), Creation::Nameless);
    }

    #[test]
    fn a_name_means_one_object_of_its_kind_until_that_is_renamed_or_removed() {
        let (objects, environment) = (Objects::default(), EnvironmentId::random());
        objects.insert(record("di-1", Some("a"), &environment), 0);
        assert!(objects.by_name(&environment, ObjectKind::Queue, "a").is_none());
        objects.rename(record("di-1", Some("b"), &environment), 0);
        assert!(objects.by_name(&environment, ObjectKind::Dict, "a").is_none());
        assert_eq!(objects.by_name(&environment, ObjectKind::Dict, "b").unwrap().id, "di-1");
        objects.remove("di-1");
        assert!(objects.by_name(&environment, ObjectKind::Dict, "b").is_none());
    }

    #[test]
    fn only_a_nameless_object_without_app_falls_silent() {
        let (objects, environment) = (Objects::default(), EnvironmentId::random());
        objects.insert(record("di-1", Some("a"), &environment), 0);
        objects.insert(record("di-2", None, &environment), 0);
        objects.insert(record("di-3", None, &environment), 0);
        objects.note_heartbeat("di-3", SILENCE_MS);
        assert_eq!(objects.silent(SILENCE_MS + 1), ["di-2"]);
    }
}

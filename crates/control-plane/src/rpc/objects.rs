//! What requests for volumes, dicts, queues and network file systems have in common.

use std::cmp::Reverse;
use std::sync::Arc;

use client_protocol::wire;
use metadata_store::{EnvironmentRecord, ObjectRecord, Write};
use tonic::Status;
use types::objects::ObjectKind;
use wire::ObjectCreationType;

use crate::caller::Caller;
use crate::clock::{seconds, steady_ms, unique_wall_ms};
use crate::near_matches::did_you_mean;
use crate::objects::{Creation, decide_creation, random_id};
use crate::rpc::secrets::is_object_name;
use crate::rpc::{Api, store_status};

/// A request for an object, by name or without one.
pub(crate) struct ObjectRequest {
    pub kind: ObjectKind,
    pub name: String,
    /// Empty means the caller's.
    pub environment: String,
    pub creation: ObjectCreationType,
    /// Empty when no app owns it.
    pub app: String,
    pub version: u32,
}

impl Api {
    /// The object, and whether it was made just now.
    ///
    /// # Errors
    /// `NOT_FOUND` for an unknown name, app or environment; `ALREADY_EXISTS` for a name that must be new and is not;
    /// `INVALID_ARGUMENT` for text that cannot be a name.
    pub(crate) async fn object_get_or_create(
        &self,
        caller: &Caller,
        request: ObjectRequest,
    ) -> Result<(Arc<ObjectRecord>, bool), Status> {
        let ObjectRequest { kind, name, creation, .. } = &request;
        let environment = self.object_environment(caller, &request.environment, &request.app)?;
        let _naming = self.shared.objects.naming.lock().await;
        let known = self.shared.objects.by_name(&environment.id, *kind, name);
        // A repeated request gets the same object: the first answer may have been lost.
        let suffix = self.stable_suffix(caller, kind.class());
        let id = suffix.map_or_else(|| random_id(*kind), |suffix| format!("{}-{suffix}", kind.prefix()));
        if let Some(made) = self.shared.objects.get(*kind, &id) {
            return Ok((made, false));
        }
        let named = match decide_creation(*creation, known.is_some()) {
            Creation::Existing => {
                return known.map(|known| (known, false)).ok_or_else(|| self.no_such(&request, &environment));
            }
            Creation::Missing => return Err(self.no_such(&request, &environment)),
            Creation::Taken => return Err(taken(*kind, name, &environment)),
            Creation::Overwrite => {
                return Err(Status::invalid_argument(format!("a {} cannot be overwritten, only deleted", kind.word())));
            }
            Creation::Named => true,
            Creation::Nameless => false,
        };
        if named && !is_object_name(name) {
            return Err(bad_name(*kind, name));
        }
        let app = match creation {
            ObjectCreationType::AnonymousOwnedByApp => Some(self.app(&request.app)?.id.clone()),
            _ => None,
        };
        let record = ObjectRecord {
            id,
            kind: *kind,
            environment: environment.id,
            name: named.then(|| name.clone()),
            app,
            version: request.version,
            created_at_ms: unique_wall_ms(),
        };
        self.shared.store.write(vec![Write::Object(record.clone())]).await.map_err(|e| store_status(&e))?;
        self.shared.objects.insert(record.clone(), steady_ms());
        Ok((Arc::new(record), true))
    }

    /// An app's nameless object lives in the app's environment.
    fn object_environment(&self, caller: &Caller, name: &str, app: &str) -> Result<EnvironmentRecord, Status> {
        if name.is_empty() && !app.is_empty() {
            let of_app = self.app(app)?.environment.clone();
            let environments = self.shared.environments.read();
            if let Some(found) = environments.values().find(|environment| environment.id == of_app) {
                return Ok(found.clone());
            }
        }
        self.environment(caller, name)
    }

    fn no_such(&self, request: &ObjectRequest, environment: &EnvironmentRecord) -> Status {
        let ObjectRequest { kind, name, .. } = request;
        let of_kind = self.shared.objects.all(|o| o.kind == *kind && o.environment == environment.id);
        let hint = did_you_mean(name, of_kind.iter().filter_map(|o| o.name.as_deref()));
        Status::not_found(format!(
            "{} '{name}' not found in environment '{}'{hint}; `{} create {name}` or `create_if_missing=True` makes one",
            kind.class(),
            environment.name,
            kind.command()
        ))
    }

    /// # Errors
    /// `INVALID_ARGUMENT` for an id of another kind, `NOT_FOUND` for one that does not exist (any more).
    pub(crate) fn object(&self, kind: ObjectKind, id: &str) -> Result<Arc<ObjectRecord>, Status> {
        if !id.strip_prefix(kind.prefix()).is_some_and(|rest| rest.starts_with('-')) {
            return Err(Status::invalid_argument(format!("`{id}` is not the id of a {}", kind.word())));
        }
        self.shared.objects.get(kind, id).ok_or_else(|| {
            let (class, command) = (kind.class(), kind.command());
            Status::not_found(format!("{class} with ID '{id}' not found; `{command} list` shows those that exist"))
        })
    }

    /// Those with a name in an environment, newest first, a page at a time.
    pub(crate) fn object_list(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        environment: &str,
        page: Option<wire::ListPagination>,
    ) -> Result<(Vec<Arc<ObjectRecord>>, EnvironmentRecord), Status> {
        let environment = self.environment(caller, environment)?;
        let page = page.unwrap_or_default();
        let is_wanted = |object: &ObjectRecord| {
            object.kind == kind
                && object.environment == environment.id
                && object.name.is_some()
                && (page.created_before <= 0.0 || seconds(object.created_at_ms) < page.created_before)
        };
        let mut objects = self.shared.objects.all(is_wanted);
        objects.sort_by_key(|object| Reverse(object.created_at_ms));
        if page.max_objects > 0 {
            objects.truncate(page.max_objects as usize);
        }
        Ok((objects, environment))
    }

    pub(crate) async fn object_rename(&self, kind: ObjectKind, id: &str, name: String) -> Result<(), Status> {
        let _naming = self.shared.objects.naming.lock().await;
        let record = self.object(kind, id)?;
        if record.name.as_deref() == Some(&name) {
            return Ok(());
        }
        if !is_object_name(&name) {
            return Err(bad_name(kind, &name));
        }
        if record.name.is_none() {
            let text = format!("this {} has no name to be changed: it goes with the program that made it", kind.word());
            return Err(Status::failed_precondition(text));
        }
        if self.shared.objects.by_name(&record.environment, kind, &name).is_some() {
            let word = kind.word();
            return Err(Status::already_exists(format!(
                "a {word} `{name}` exists already; delete it or choose another name"
            )));
        }
        let renamed = ObjectRecord { name: Some(name), ..record.as_ref().clone() };
        self.shared.store.write(vec![Write::Object(renamed.clone())]).await.map_err(|e| store_status(&e))?;
        self.shared.objects.rename(renamed, steady_ms());
        Ok(())
    }

    pub(crate) async fn object_delete(&self, kind: ObjectKind, id: &str) -> Result<(), Status> {
        let record = self.object(kind, id)?;
        self.shared.store.write(vec![Write::DeleteObject(record.id.clone())]).await.map_err(|e| store_status(&e))?;
        if self.shared.objects.remove(id).is_some() {
            self.shared.on_object_gone(&record);
        }
        Ok(())
    }

    pub(crate) fn object_heartbeat(&self, kind: ObjectKind, id: &str) -> Result<(), Status> {
        let record = self.object(kind, id)?;
        self.shared.objects.note_heartbeat(&record.id, steady_ms());
        Ok(())
    }
}

pub(crate) fn creation_info(record: &ObjectRecord) -> wire::CreationInfo {
    wire::CreationInfo { created_at: seconds(record.created_at_ms), ..Default::default() }
}

fn taken(kind: ObjectKind, name: &str, environment: &EnvironmentRecord) -> Status {
    let text = format!("{} '{name}' already exists in environment '{}'", kind.class(), environment.name);
    Status::already_exists(text)
}

fn bad_name(kind: ObjectKind, name: &str) -> Status {
    Status::invalid_argument(format!(
        "`{}` cannot name a {}: use up to 64 letters, digits, `-`, `_` and `.`",
        name.escape_debug(),
        kind.word()
    ))
}

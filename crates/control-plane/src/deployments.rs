//! Versions of an app: which definitions are live, which were, and how one set takes the place of another.
//!
//! A definition is a draft from the moment it is made until a version names it. Publishing a version writes everything
//! that it changes in one transaction and only then switches the functions over, so that a deployment that fails
//! half-way, or a server killed in the middle of one, leaves the version before as it was.

use std::collections::HashSet;
use std::sync::Arc;

use calls::Millis;
use metadata_store::DeploymentRecord;
use parking_lot::Mutex;
use tonic::Status;
use types::ids::{DefinitionId, FunctionId};

use crate::apps::App;
use crate::definition::Definition;
use crate::owner::Owner;
use crate::rpc::deployments::restored_definition;
use crate::rpc::store_status;
use crate::shared::Shared;

/// Versions whose images are kept for a rollback.
pub const IMAGES_KEPT_FOR: usize = 10;
/// Drafts of one app; a deployment of more functions than this at once is none that we know of.
const MAX_DRAFTS: usize = 4_096;
/// A deployment that takes longer has been given up.
const DRAFT_KEPT_MS: Millis = 24 * 3_600_000;

/// A definition that is not live yet.
#[derive(Clone)]
pub struct Draft {
    pub function: FunctionId,
    pub definition: Arc<Definition>,
    made_at: Millis,
}

/// The drafts of one app. They are in the store as well, for a deployment that goes on over a restart.
#[derive(Default)]
pub struct Drafts {
    /// Oldest first.
    drafts: Mutex<Vec<Draft>>,
}

impl Drafts {
    /// The oldest go when there are too many.
    pub fn add(&self, function: FunctionId, definition: Arc<Definition>, now: Millis) {
        let mut drafts = self.drafts.lock();
        drafts.retain(|draft| draft.made_at + DRAFT_KEPT_MS > now);
        if drafts.len() >= MAX_DRAFTS {
            drafts.remove(0);
        }
        drafts.push(Draft { function, definition, made_at: now });
    }

    pub fn get(&self, id: &DefinitionId) -> Option<Draft> {
        self.drafts.lock().iter().find(|draft| draft.definition.id == *id).cloned()
    }

    /// What was made last for this function.
    pub fn newest(&self, function: &FunctionId) -> Option<Draft> {
        self.drafts.lock().iter().rev().find(|draft| draft.function == *function).cloned()
    }

    /// These live now. Drafts made before them for the same functions are of deployments that were overtaken, and stay:
    /// theirs may still be published.
    pub fn remove(&self, live: &[DefinitionId]) {
        self.drafts.lock().retain(|draft| !live.contains(&draft.definition.id));
    }

    pub fn all(&self) -> Vec<Arc<Definition>> {
        self.drafts.lock().iter().map(|draft| draft.definition.clone()).collect()
    }
}

/// Finds the version that a rollback means: `wanted`, or the one before the live one for a negative number.
///
/// # Errors
/// A sentence when there is no such version, or it was never live.
pub fn rollback_target(history: &[DeploymentRecord], live: u32, wanted: i32) -> Result<&DeploymentRecord, String> {
    let known = || listed(history.iter().filter(|v| !v.staged));
    let Ok(wanted) = u32::try_from(wanted) else {
        let before = history.iter().rev().find(|v| v.version < live && !v.staged);
        return before.ok_or_else(|| format!("there is no version before v{live}; its history has {}", known()));
    };
    match history.iter().find(|v| v.version == wanted) {
        None => Err(format!("it has no version v{wanted}; its history has {}", known())),
        Some(version) if version.staged => {
            Err(format!("v{wanted} is staged and was never live; `modal app promote` deploys it"))
        }
        Some(version) => Ok(version),
    }
}

/// Finds the version that a look-up is pinned to, live or not.
///
/// # Errors
/// A sentence when there is no such version (any more).
pub fn pinned_target(history: &[DeploymentRecord], wanted: u32) -> Result<&DeploymentRecord, String> {
    let found = history.iter().find(|version| version.version == wanted);
    found.ok_or_else(|| format!("has no version v{wanted}; its history has {}", listed(history.iter())))
}

fn listed<'a>(versions: impl Iterator<Item = &'a DeploymentRecord>) -> String {
    let versions: Vec<String> = versions.map(|version| format!("v{}", version.version)).collect();
    if versions.is_empty() { "no version".to_owned() } else { versions.join(", ") }
}

/// Finds the staged version to promote.
///
/// # Errors
/// A sentence when there is none of that number.
pub fn promotion_target(history: &[DeploymentRecord], wanted: i32) -> Result<&DeploymentRecord, String> {
    let version = u32::try_from(wanted).ok().and_then(|wanted| history.iter().find(|v| v.version == wanted));
    match version {
        None => Err(format!("it has no version v{wanted}")),
        Some(version) if !version.staged => {
            Err(format!("v{wanted} is not staged; `modal app rollback` brings an earlier version back"))
        }
        Some(version) => Ok(version),
    }
}

impl Shared {
    /// Makes a definition the live one of its function. Containers of the one before finish what they run and leave;
    /// inputs that wait, and new ones, are for new containers.
    pub fn switch_definition(self: &Arc<Self>, owner: &Arc<Owner>, definition: Arc<Definition>) {
        owner.set_definition(self, definition);
        owner.set_published(true);
        self.rebase_variants(owner);
        owner.wake(self);
    }

    /// The function is in no version that is live. What it accepted is still done.
    fn retire(self: &Arc<Self>, function: &Arc<Owner>) {
        for owner in std::iter::once(function.clone()).chain(self.followers_of(&function.id)) {
            owner.set_published(false);
            for task in owner.task_ids() {
                owner.drain_task(self, &task);
            }
            owner.wake(self);
        }
    }

    /// Puts a version into force: `live` are its functions, with the definitions to run.
    pub fn switch_app(self: &Arc<Self>, app: &Arc<App>, live: Vec<(Arc<Owner>, Arc<Definition>)>) {
        let kept: HashSet<FunctionId> = live.iter().map(|(owner, _)| owner.id.clone()).collect();
        let ids: Vec<DefinitionId> = live.iter().map(|(_, definition)| definition.id.clone()).collect();
        for (owner, definition) in live {
            self.switch_definition(&owner, definition);
        }
        for owner in self.owners_of(&app.id) {
            if owner.is_of_layout() && owner.is_published() && !kept.contains(&owner.id) {
                self.retire(&owner);
            }
        }
        app.drafts.remove(&ids);
    }

    /// A version of an app by its number.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is none.
    pub async fn version_of(&self, app: &App, wanted: u32) -> Result<DeploymentRecord, Status> {
        let history = self.store.deployments(&app.id).await.map_err(|e| store_status(&e))?;
        let found = pinned_target(&history, wanted).cloned();
        found.map_err(|why| Status::not_found(format!("app `{}` {why}", app.shown_name())))
    }

    /// The definition that a function has in a version.
    ///
    /// # Errors
    /// `NOT_FOUND` when the version does not have the function.
    pub async fn definition_in(
        &self,
        app: &App,
        version: &DeploymentRecord,
        function: &FunctionId,
    ) -> Result<Arc<Definition>, Status> {
        let missing = || {
            let (app, version) = (app.shown_name(), version.version);
            Status::not_found(format!("function `{function}` is not in version v{version} of app `{app}`"))
        };
        let id = version.definition_ids.get(function).ok_or_else(missing)?;
        let live = self.owners.get(function).map(|owner| owner.definition());
        if let Some(definition) = live.filter(|definition| definition.id == *id) {
            return Ok(definition);
        }
        let stored = self.store.definition(id).await.map_err(|e| store_status(&e))?;
        stored.map(|record| restored_definition(&record).map(Arc::new)).ok_or_else(missing)?
    }

    /// What follows from a change of what is published under an app, or of its end.
    pub fn on_published(self: &Arc<Self>, app: &Arc<App>) {
        self.attach_schedules(app);
    }
}

#[cfg(test)]
mod tests {
    use types::ids::AppId;

    use super::*;

    fn version(number: u32, staged: bool) -> DeploymentRecord {
        DeploymentRecord {
            app: AppId::random(),
            version: number,
            deployed_at_ms: 1,
            client_version: String::new(),
            tag: String::new(),
            rollback_version: None,
            staged,
            commit_info: Default::default(),
            function_ids: Default::default(),
            class_ids: Default::default(),
            definition_ids: Default::default(),
        }
    }

    #[test]
    fn a_rollback_without_a_number_means_the_version_that_was_live_before() {
        let history = [version(1, false), version(2, true), version(3, false)];
        assert_eq!(rollback_target(&history, 3, -1).unwrap().version, 1);
        assert!(rollback_target(&history, 1, -1).unwrap_err().contains("no version before v1"));
    }

    #[test]
    fn a_rollback_to_a_version_that_is_not_there_lists_those_that_are() {
        let history = [version(4, false), version(5, true)];
        let error = rollback_target(&history, 4, 9).unwrap_err();
        assert!(error.contains("v9") && error.contains("has v4"), "{error}");
        assert!(rollback_target(&history, 4, 5).unwrap_err().contains("modal app promote"));
    }

    #[test]
    fn a_look_up_finds_any_version_by_its_number_and_refuses_one_that_is_not_there() {
        let history = [version(4, false), version(5, true)];
        assert_eq!(pinned_target(&history, 5).unwrap().version, 5);
        assert_eq!(pinned_target(&history, 3).unwrap_err(), "has no version v3; its history has v4, v5");
        assert_eq!(pinned_target(&[], 1).unwrap_err(), "has no version v1; its history has no version");
    }

    #[test]
    fn only_a_staged_version_is_promoted() {
        let history = [version(1, false), version(2, true)];
        assert_eq!(promotion_target(&history, 2).unwrap().version, 2);
        assert!(promotion_target(&history, 1).unwrap_err().contains("not staged"));
        assert!(promotion_target(&history, -1).is_err());
    }
}

//! What is kept, as plain data, and the changes that can be made to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use calls::{CallSpec, FinishedOutput, NewInput, Payload, Restored};
use serde::{Deserialize, Serialize};
use types::ids::{
    AppId, BlobId, ClassId, DefinitionId, EnvironmentId, FunctionCallId, FunctionId, ImageId, ImageRevisionId, MountId,
    SecretId, TaskId,
};
use types::objects::ObjectKind;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentRecord {
    pub id: EnvironmentId,
    /// Unique.
    pub name: String,
    pub created_at_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppState {
    Initializing,
    /// Lives as long as its client.
    Ephemeral,
    Detached,
    /// Detached, and its client has gone.
    DetachedDisconnected,
    Deployed,
    Stopping,
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRecord {
    pub id: AppId,
    pub environment: EnvironmentId,
    /// The name it is deployed under.
    pub name: Option<String>,
    pub description: String,
    pub state: AppState,
    pub created_at_ms: u64,
    pub deployed_at_ms: Option<u64>,
    pub stopped_at_ms: Option<u64>,
    pub tags: BTreeMap<String, String>,
    pub function_ids: BTreeMap<String, FunctionId>,
    pub class_ids: BTreeMap<String, ClassId>,
    pub client_version: String,
    /// The deployment that is live; 0 when nothing was ever deployed.
    pub version: u32,
}

/// One version of an app: what its names meant, so that it can be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentRecord {
    pub app: AppId,
    /// From 1, in the order of publication.
    pub version: u32,
    pub deployed_at_ms: u64,
    pub client_version: String,
    /// What the user called it (`modal deploy --tag`).
    pub tag: String,
    /// The version that this one repeats.
    pub rollback_version: Option<u32>,
    /// Published to be promoted later: it was never live itself.
    pub staged: bool,
    /// The client's word on the state of the source, as it came; empty without one.
    pub commit_info: Bytes,
    pub function_ids: BTreeMap<String, FunctionId>,
    pub class_ids: BTreeMap<String, ClassId>,
    pub definition_ids: BTreeMap<FunctionId, DefinitionId>,
}

/// A definition that some version may name. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionRecord {
    pub id: DefinitionId,
    pub function: FunctionId,
    pub app: AppId,
    /// The client's message as it came.
    pub definition: Bytes,
    pub client_version: String,
    pub created_at_ms: u64,
}

/// A function with the definition that is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRecord {
    pub id: FunctionId,
    pub app: AppId,
    pub tag: String,
    pub definition_id: DefinitionId,
    /// The client's message as it came, so that fields we do not know survive.
    pub definition: Bytes,
    pub client_version: String,
    pub created_at_ms: u64,
}

/// A function with parameters or options of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariantRecord {
    pub id: FunctionId,
    pub base: FunctionId,
    pub app: AppId,
    /// The client's bytes, as a container gets them.
    pub params: Bytes,
    /// The client's message.
    pub options: Bytes,
    pub created_at_ms: u64,
    pub last_used_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    pub id: ImageId,
    /// What the image is made of, as a key. When there are several, the newest counts: they are loaded oldest first.
    pub key: String,
    pub built_json: String,
    pub builder_version: String,
    /// When its build began.
    pub created_at_ms: u64,
    pub finished_at_ms: u64,
    pub last_used_ms: u64,
    /// Images that it was built on, as the client named them.
    pub bases: Vec<ImageId>,
    /// Id under which its build's log is found, and the app that asked for the build.
    pub build_task: Option<TaskId>,
    pub app: Option<AppId>,
}

/// One publication of an image under a name. The newest of a tag is what the tag means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRevisionRecord {
    pub id: ImageRevisionId,
    pub environment: EnvironmentId,
    /// `name:tag`.
    pub tag: String,
    pub image: ImageId,
    /// Never equal for two revisions.
    pub created_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    pub id: SecretId,
    pub environment: EnvironmentId,
    /// Unique in the environment. Without one it belongs to a program: its app's, or its client's.
    pub name: Option<String>,
    /// Goes with this app.
    pub app: Option<AppId>,
    /// Names of the variables, sorted.
    pub keys: Vec<String>,
    /// The variables, encrypted.
    pub sealed: Bytes,
    pub created_at_ms: u64,
    pub last_used_ms: Option<u64>,
}

/// A volume, dict, queue or network file system: what it is called and whose it is. What is in it is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// With the prefix of its kind.
    pub id: String,
    pub kind: ObjectKind,
    pub environment: EnvironmentId,
    /// Unique among those of its kind in the environment. Without one it belongs to a program: its app's, or its client's.
    pub name: Option<String>,
    /// Goes with this app.
    pub app: Option<AppId>,
    /// Which flavour of its kind the client asked for; 0 where there is only one.
    pub version: u32,
    /// Never equal for two objects.
    pub created_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRecord {
    pub id: MountId,
    /// A published mount has a name, unique; an anonymous one is found by its content.
    pub name: Option<String>,
    pub content_digest: String,
    pub files: Vec<MountFileRecord>,
    pub created_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFileRecord {
    pub path: String,
    /// In hex.
    pub sha256: String,
    pub mode: u32,
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    pub spec: CallSpec,
    pub app: AppId,
    pub function: FunctionId,
    /// No more inputs will come.
    pub inputs_complete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputRecord {
    pub call: FunctionCallId,
    pub input: NewInput,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OutputRecord {
    pub call: FunctionCallId,
    pub output: FinishedOutput,
}

/// A durable call with what is left of its inputs and what came out.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredCall {
    pub record: CallRecord,
    /// Inputs without an output, in the order in which they came.
    pub pending: Vec<NewInput>,
    /// In order of publication.
    pub finished: Vec<FinishedOutput>,
}

impl StoredCall {
    /// As the state machine takes it.
    pub fn restored(self) -> Restored {
        Restored {
            spec: self.record.spec,
            pending: self.pending,
            finished: self.finished,
            inputs_complete: self.record.inputs_complete,
        }
    }
}

/// When a function of a deployed app runs by itself, and when it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRecord {
    pub function: FunctionId,
    pub app: AppId,
    /// In words; another schedule has other words.
    pub schedule: String,
    /// From when periods are counted.
    pub anchor_ms: u64,
    /// None when it has no further run.
    pub next_run_ms: Option<u64>,
    pub last_run_ms: Option<u64>,
    pub last_call: Option<FunctionCallId>,
}

/// A run of a schedule, to be noted with the call that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledRun {
    pub function: FunctionId,
    /// Which schedule it was: these two must still be so.
    pub schedule: String,
    pub anchor_ms: u64,
    pub at_ms: u64,
    pub next_run_ms: Option<u64>,
    pub call: FunctionCallId,
}

/// Everything that a starting server needs to know.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadedState {
    pub environments: Vec<EnvironmentRecord>,
    pub apps: Vec<AppRecord>,
    pub functions: Vec<FunctionRecord>,
    pub images: Vec<ImageRecord>,
    /// In order of publication.
    pub image_revisions: Vec<ImageRevisionRecord>,
    pub secrets: Vec<SecretRecord>,
    pub objects: Vec<ObjectRecord>,
    pub mounts: Vec<MountRecord>,
    /// Calls that still wait for something: an input without an output, or the word that no more inputs come.
    /// Finished ones stay on disk until somebody asks for them.
    pub calls: Vec<StoredCall>,
    pub schedules: Vec<ScheduleRecord>,
    /// Those that stored calls name. Others are looked up when somebody asks for them.
    pub variants: Vec<VariantRecord>,
}

/// What an expiry took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    pub calls: usize,
    /// Blobs that only these calls' outputs named: to be deleted by whoever keeps blobs.
    pub blobs: Vec<BlobId>,
}

/// One change. A record that exists is replaced, except inputs and outputs, which never change once written.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Environment(EnvironmentRecord),
    /// With its apps, and all that is theirs.
    DeleteEnvironment(EnvironmentId),
    App(AppRecord),
    /// With its functions and their calls.
    DeleteApp(AppId),
    Function(FunctionRecord),
    DeleteFunction(FunctionId),
    Definition(DefinitionRecord),
    /// A version of an app; the oldest of many go, with the definitions that only they named.
    Deployment(DeploymentRecord),
    Image(ImageRecord),
    /// The image was used at this time.
    TouchImage(ImageId, u64),
    /// Its names stay, and mean an image that is gone.
    DeleteImage(ImageId),
    ImageRevision(ImageRevisionRecord),
    /// A tag of an environment, with all its revisions.
    DeleteImageTag(EnvironmentId, String),
    Secret(SecretRecord),
    /// The secret was used at this time.
    TouchSecret(SecretId, u64),
    DeleteSecret(SecretId),
    Object(ObjectRecord),
    /// The record only; what was in the object is deleted by whoever keeps it.
    DeleteObject(String),
    Mount(MountRecord),
    DeleteMount(MountId),
    Call(CallRecord),
    /// Inputs of calls that have been written before; of any other call they fail the write.
    Inputs(Vec<InputRecord>),
    /// Replaces the input. Of a call that was deleted, or of an input that has its output, it is left out.
    Output(OutputRecord),
    /// No more inputs will come to this call.
    FinishInputs(FunctionCallId),
    DeleteCall(FunctionCallId),
    Schedule(ScheduleRecord),
    /// Of a schedule that was replaced or taken away meanwhile it is left out.
    ScheduledRun(ScheduledRun),
    DeleteSchedule(FunctionId),
    Variant(VariantRecord),
    /// The variant was used at this time.
    TouchVariant(FunctionId, u64),
    /// Those last used before this time that no stored call names.
    ExpireVariants(u64),
}

impl Write {
    /// About how many bytes it holds in memory; what bounds the queue.
    pub(crate) fn weight(&self) -> usize {
        const SMALL: usize = 256;
        match self {
            Self::Function(function) => SMALL + function.definition.len(),
            Self::Definition(definition) => SMALL + definition.definition.len(),
            Self::Variant(variant) => SMALL + variant.params.len() + variant.options.len(),
            Self::Image(image) => SMALL + image.built_json.len(),
            Self::Secret(secret) => SMALL + secret.sealed.len(),
            Self::Mount(mount) => SMALL + mount.files.len() * 160,
            Self::Inputs(inputs) => {
                inputs.iter().map(|record| SMALL + record.input.payload.resident_bytes()).sum::<usize>()
            }
            Self::Output(record) => {
                let outcome = &record.output.outcome;
                SMALL
                    + outcome.data.as_ref().map_or(0, Payload::resident_bytes)
                    + outcome.serialized_traceback.len()
                    + outcome.traceback_line_cache.len()
                    + outcome.traceback.len()
            }
            _ => SMALL,
        }
    }
}

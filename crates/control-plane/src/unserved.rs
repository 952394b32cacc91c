//! What a user meant who makes a call that Dorian does not serve.
//!
//! The name of a call says nothing to somebody who typed `modal shell`. So each call of the clients that is not served has
//! a feature here, and the answer names that. Calls that nobody has heard of are named themselves.
//!
//! Which calls are served is not decided here: this is asked only after nobody has taken a call. A call that comes to be
//! served leaves an entry that is never read, and should be taken out.

use tonic::Status;

/// The calls of a feature, by their names or (with a `*`) by what their names begin with, and what needs it.
struct Entry {
    calls: &'static [&'static str],
    /// The beginning of a sentence: who needs what.
    needs: &'static str,
    /// What to do instead, if there is anything.
    instead: &'static str,
}

const fn entry(calls: &'static [&'static str], needs: &'static str) -> Entry {
    Entry { calls, needs, instead: "" }
}

/// The first that fits counts.
const ENTRIES: &[Entry] = &[
    entry(&["Sandbox*", "PersistentSandbox*"], "`modal shell` and `modal.Sandbox` need sandboxes"),
    entry(
        &["TaskGetCommandRouterAccess", "TaskExec*", "TaskContainer*", "ContainerExec*", "ContainerFilesystemExec*"],
        "`modal shell` and `modal container exec` need commands in running containers",
    ),
    entry(
        &["TaskMountDirectory", "TaskUnmountDirectory", "TaskReloadVolumes", "TaskSet*", "TaskSnapshot*"],
        "`modal.Sandbox` needs sandboxes",
    ),
    entry(&["TunnelStart", "TunnelStop"], "`modal.forward` needs tunnels"),
    entry(&["Proxy*"], "`modal.Proxy` needs proxies"),
    entry(&["FunctionStartPtyShell"], "`modal.interact` needs interactive functions (`modal run -i`)"),
    entry(&["ContainerCheckpoint"], "`enable_memory_snapshot=` needs memory snapshots"),
    entry(&["Cluster*", "TaskClusterHello"], "`@modal.experimental.clustered` needs clusters"),
    entry(
        &["Server*", "Flash*", "ContainerServerLifecycleReady", "FunctionGetFlashAuthToken"],
        "`@app.server` and `modal server` need servers",
    ),
    entry(&["CurlGetAuthToken"], "`modal curl` needs web endpoints"),
    entry(&["WebhookToken*"], "`modal workspace proxy-tokens` needs web endpoints"),
    entry(&["Domain*"], "`custom_domains=` needs web endpoints"),
    entry(&["Endpoint*"], "`modal endpoint` needs endpoints of models"),
    entry(
        &["FunctionGetMetrics", "FunctionGetTimeRangeStats", "AppGetTimeRangeStats", "MetricsGetInfo"],
        "`.metrics` and `.stats` need measurements over time",
    ),
    entry(&["WorkspaceBilling*", "EnvironmentBilling*"], "`modal billing` needs prices"),
    entry(&["EnvironmentGetBudget", "EnvironmentSetBudget"], "a budget needs prices"),
    Entry {
        calls: &["WorkspaceDashboardUrlGet"],
        needs: "`modal dashboard` needs a dashboard",
        instead: "`modal app list` and `modal app logs` tell of apps",
    },
    Entry {
        calls: &["TokenFlow*"],
        needs: "`modal setup` and `modal token new` need accounts of users",
        instead: "`dorian login` stores this server's token",
    },
    Entry {
        calls: &["TokenInfoGet"],
        needs: "`modal token info` needs accounts of users",
        instead: "a server has one token, which `dorian env` prints",
    },
    Entry {
        calls: &["Token*"],
        needs: "`modal token` and `modal workspace members` need accounts of users",
        instead: "a server has one token, which `dorian env` prints",
    },
    entry(
        &["WorkspaceMembers*", "ServiceUser*", "UserGroup*", "EnvironmentGetRoles", "EnvironmentRole*"],
        "`modal workspace members` and its like need accounts of users",
    ),
    entry(&["EnvironmentSetDefaultMemberRole"], "roles in an environment need accounts of users"),
    entry(&["EnvironmentGetManaged", "EnvironmentSetManaged"], "managed environments need accounts of users"),
    entry(&["WorkspaceSet*"], "`modal workspace settings` needs settings of a workspace"),
    entry(&["AuditLog*"], "`modal.Workspace.audit_logs` needs an audit log"),
    entry(&["Notebook*"], "notebooks of the hosted service need their own kernels"),
    entry(
        &["Attempt*", "MapStartOrContinue", "MapAwait", "MapCheckInputs", "FunctionBlobGet", "FunctionAsyncInvoke"],
        "`input_plane_region=` and its like need an input plane",
    ),
    entry(&["FunctionCallList"], "a list of a function's calls by this client needs another form of it"),
    entry(&["ContainerReloadVolumes"], "reloading a container's volumes from outside needs sandboxes"),
    entry(&["ContainerLog", "TaskCurrentInputs"], "the container's own reports need a runner that makes them"),
    entry(&["CliCommandSuggest", "TemplateList"], "suggestions for the command line need a collection of them"),
    Entry {
        calls: &[
            "ClientCreate",
            "ClientHeartbeat",
            "AppDeploySingleObject",
            "AppLookup*",
            "DictCreate",
            "MountBuild",
            "QueueCreate",
            "SecretCreate",
            "SharedVolumeCreate",
            "VolumeCreate",
        ],
        needs: "clients before 0.63 need calls of their own",
        instead: "`pip install -U modal` installs a client that is served",
    },
];

/// The answer to a call that nobody serves.
#[must_use]
pub fn unserved(call: &str) -> Status {
    let fits = |pattern: &str| pattern.strip_suffix('*').map_or(pattern == call, |start| call.starts_with(start));
    match ENTRIES.iter().find(|entry| entry.calls.iter().any(|pattern| fits(pattern))) {
        Some(entry) if entry.instead.is_empty() => {
            Status::unimplemented(format!("{}, which Dorian does not serve yet", entry.needs))
        }
        Some(entry) => {
            Status::unimplemented(format!("{}, which Dorian does not serve yet; {}", entry.needs, entry.instead))
        }
        None => Status::unimplemented(format!("`{call}` is a call that this version of Dorian does not know")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_not_served_is_answered_with_the_feature_that_it_belongs_to() {
        for (call, sentence) in [
            ("SandboxCreateV2", "`modal shell` and `modal.Sandbox` need sandboxes, which Dorian does not serve yet"),
            ("TunnelStart", "`modal.forward` needs tunnels, which Dorian does not serve yet"),
            ("WorkspaceBillingReport", "`modal billing` needs prices, which Dorian does not serve yet"),
            (
                "TokenFlowWait",
                "`modal setup` and `modal token new` need accounts of users, which Dorian does not serve yet; `dorian login` \
                 stores this server's token",
            ),
            ("InventedMethod", "`InventedMethod` is a call that this version of Dorian does not know"),
        ] {
            let status = unserved(call);
            assert_eq!(status.code(), tonic::Code::Unimplemented);
            assert_eq!(status.message(), sentence);
        }
    }
}

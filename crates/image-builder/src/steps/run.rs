//! RUN: a program in a container, whose writes become the layer.

use std::fs;

use container_runtime::{Bind, Exit, RuntimeError};
use image_plan::{LayerKey, Mount, Step};

use crate::bases::debian::DEFAULT_MIRROR;
use crate::builder::{ImageBuilder, StepContext};
use crate::container::{self, Outcome, Program};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::stack::LayerStack;
use crate::steps::copy::make_layer_root;
use crate::steps::hints::{Ending, hint};
use crate::store::Workspace;
use crate::volumes::{StepVolumes, refuse_hidden_mounts};

pub(crate) struct Run<'a> {
    pub argv: &'a [String],
    pub env: &'a [(String, String)],
    /// As [`image_plan::Action::Run`] has it.
    pub unkeyed_env: &'a [(String, String)],
    pub workdir: &'a str,
    pub user: Option<&'a str>,
    pub network: bool,
    pub mounts: &'a [Mount],
}

/// Where the image says nothing; the shell's own default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl ImageBuilder {
    /// The volumes that come back hold what the step wrote to them, to be committed.
    pub(crate) async fn run_step(
        &self,
        below: &[LayerKey],
        step: &Step,
        run: Run<'_>,
        context: &StepContext,
        workspace: &Workspace,
        logs: &LogSink,
    ) -> Result<StepVolumes, BuildError> {
        let user = self.resolve_user(below, run.user)?;
        let mut argv = user.as_ref().map_or_else(Vec::new, User::switch);
        argv.extend_from_slice(run.argv);
        let mut env = run.env.to_vec();
        for (name, value) in run.unkeyed_env.iter().chain(context.secret_env.iter()) {
            set(&mut env, name, value);
        }
        // Held until the program has ended: a cache may be this step's alone.
        let mounts = self.prepare_mounts(run.mounts, context, workspace, logs).await?;
        refuse_hidden_mounts(&context.volumes, &mounts)?;
        for (name, value) in &mounts.env {
            set(&mut env, name, value);
        }
        set_default(&mut env, "HOME", user.as_ref().map_or("/root", |user| user.home.as_str()));
        let mut binds = self.host_settings(&mut env, below)?;
        binds.extend(self.mirror_bind(below, workspace)?);
        binds.extend(mounts.binds.iter().cloned());
        let stack = LayerStack::new(self.layer_paths(below));
        let debs = self.lend_debs(&stack, run.argv, &env, workspace, &mut binds)?;
        make_layer_root(&workspace.diff())?;
        let volumes = StepVolumes::open(&context.volumes, &self.inner.store).await?;
        let program = Program {
            layers: self.with_mount_points(below),
            argv,
            env,
            cwd: run.workdir.to_owned(),
            network: run.network,
            tmpfs: mounts.tmpfs.clone(),
            binds,
            volumes: volumes.mounts(),
            scratch: workspace.path().to_owned(),
        };
        let ran = container::run(&self.inner.runtime, program, logs).await;
        let outcome = ran.map_err(|error| program_failure(step, error))?;
        if !outcome.succeeded() {
            return Err(failure(step, outcome));
        }
        if let Some(debs) = debs {
            self.keep_debs(debs);
        }
        Ok(volumes)
    }

    /// Adds this machine's settings where nothing is set, and the mounts that they need.
    pub(crate) fn host_settings(
        &self,
        env: &mut Vec<(String, String)>,
        layers: &[LayerKey],
    ) -> Result<Vec<Bind>, BuildError> {
        let host = &self.inner.config.host_env;
        for (name, value) in host.step_variables() {
            set_default(env, &name, &value);
        }
        set_default(env, "PATH", DEFAULT_PATH);
        let mut binds = host.binds();
        // What was downloaded is kept by digest, or with the index's word on freshness, so it changes how long a step
        // takes and not what it gives. Both tools also keep packages that they compiled, which fit the system they were
        // compiled on: hence one cache for each base.
        let base = layers.first().map_or("none", LayerKey::short);
        for (variable, name) in [("PIP_CACHE_DIR", "pip"), ("UV_CACHE_DIR", "uv")] {
            let target = format!("{}/cache/{name}", crate::host::PRIVATE);
            set_default(env, variable, &target);
            binds.push(Bind { source: self.inner.store.cache_dir(name, base)?, target, read_only: false });
        }
        set_default(env, "UV_LINK_MODE", "copy");
        set_default(env, "PIP_ROOT_USER_ACTION", "ignore");
        // Not on one core: see `bytecode.rs`.
        set_default(env, "PIP_COMPILE", "0");
        set_default(env, "PIP_DISABLE_PIP_VERSION_CHECK", "1");
        set_default(env, "DEBIAN_FRONTEND", "noninteractive");
        let target = format!("{}/apt.conf", crate::host::PRIVATE);
        set_default(env, "APT_CONFIG", &target);
        binds.push(Bind { source: self.inner.apt_settings(), target, read_only: true });
        Ok(binds)
    }

    /// A configured Debian mirror, put in the place of the default one for as long as the step runs.
    pub(crate) fn mirror_bind(&self, below: &[LayerKey], workspace: &Workspace) -> Result<Option<Bind>, BuildError> {
        const SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";
        let mirror = self.inner.config.debian_mirror.as_deref().map(|mirror| mirror.trim_end_matches('/'));
        let Some(mirror) = mirror.filter(|mirror| *mirror != DEFAULT_MIRROR) else { return Ok(None) };
        let sources = read(&LayerStack::new(self.layer_paths(below)), SOURCES)?;
        if !sources.contains(DEFAULT_MIRROR) {
            return Ok(None);
        }
        let path = workspace.path().join("debian.sources");
        fs::write(&path, sources.replace(DEFAULT_MIRROR, mirror)).map_err(BuildError::on("write", &path))?;
        Ok(Some(Bind { source: path, target: SOURCES.to_owned(), read_only: true }))
    }

    /// USER's name or number to ids, from the image's own files. `None` for root.
    fn resolve_user(&self, below: &[LayerKey], user: Option<&str>) -> Result<Option<User>, BuildError> {
        let Some(user) = user.filter(|user| !matches!(*user, "" | "root" | "0" | "0:0" | "root:root")) else {
            return Ok(None);
        };
        let stack = LayerStack::new(self.layer_paths(below));
        let (passwd, group) = (read(&stack, "/etc/passwd")?, read(&stack, "/etc/group")?);
        let found = crate::steps::copy::owner_ids(user, &passwd, &group);
        let (uid, gid) = found.map_err(|reason| BuildError::Refused(format!("`USER {user}`: {reason}")))?;
        let entry = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
        let home = entry.and_then(|line| line.split(':').nth(5)).unwrap_or("/");
        Ok(Some(User { uid, gid, home: home.to_owned(), is_known: entry.is_some() }))
    }
}

struct User {
    uid: u32,
    gid: u32,
    home: String,
    /// The image has an entry for it, so it may have further groups.
    is_known: bool,
}

impl User {
    /// The runtime starts programs as root; util-linux, which every Debian has, changes the user.
    fn switch(&self) -> Vec<String> {
        let User { uid, gid, .. } = self;
        let groups = if self.is_known { "--init-groups" } else { "--clear-groups" };
        vec![
            "setpriv".to_owned(),
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            groups.to_owned(),
            "--".to_owned(),
        ]
    }
}

pub(crate) fn read(stack: &LayerStack, path: &str) -> Result<String, BuildError> {
    let text = stack.read(path).map_err(BuildError::io(format!("read `{path}` of the image")))?;
    Ok(text.unwrap_or_default())
}

fn set(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value.to_owned(),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}

fn set_default(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !env.iter().any(|(known, _)| known == name) {
        env.push((name.to_owned(), value.to_owned()));
    }
}

/// A program that cannot be run is the step's fault, not the machine's.
fn program_failure(step: &Step, error: BuildError) -> BuildError {
    let BuildError::Container(cause) = &error else { return error };
    let RuntimeError::Exec { program, message, .. } = cause.as_ref() else { return error };
    BuildError::Step {
        place: Box::new(step.place.clone()),
        title: step.title.clone(),
        reason: format!("cannot run `{program}`: {message}"),
        tail: Vec::new(),
        hint: hint(&[format!("{program}: not found: {message}")], Ending::default()),
    }
}

fn failure(step: &Step, outcome: Outcome) -> BuildError {
    let Exit { oom_killed: out_of_memory, signal, code, .. } = outcome.exit;
    let ending = Ending { out_of_memory, signal, code };
    BuildError::Step {
        place: Box::new(step.place.clone()),
        title: step.title.clone(),
        reason: outcome.reason(),
        hint: hint(&outcome.tail, ending),
        tail: outcome.tail,
    }
}

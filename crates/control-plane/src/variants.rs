//! Variants: a function or a class with parameters or options of its own, and a pool of containers of its own.
//!
//! A variant is an owner like any other, whose definition is made of its base's: when the base is deployed anew, its
//! variants follow, with their parameters and options. One that is pinned to a version of its app stays with the
//! definition of that version; so `from_name(version=)` is a variant too. Its id follows from base, parameters and options, so whoever
//! asks for the same gets the same pool, also after a restart.
//!
//! Anybody may ask for as many parameter sets as they like, so a variant that nobody has used for a day leaves memory,
//! and sooner when there are very many. Its row stays for a month: a program that still holds the id finds it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use calls::Millis;
use client_protocol::wire;
use metadata_store::{StoreError, VariantRecord, Write};
use prost::Message;
use tonic::Status;
use types::ids::FunctionId;
use worker_protocol::Descriptor;

use crate::clock::{steady_ms, wall_ms};
use crate::definition::Definition;
use crate::options::{self, pinned_version};
use crate::owner::Owner;
use crate::rpc::derive_suffix;
use crate::shared::Shared;
use crate::warnings::warnings;

/// Variants of one function in memory, by number and by bytes: each has a copy of the definition, which is large where
/// code travels in it.
const MAX_VARIANTS: usize = 10_000;
const MAX_VARIANT_BYTES: usize = 1 << 30;
/// However large: some must work side by side.
const MIN_VARIANTS: usize = 64;
const IDLE_KEPT_MS: Millis = 24 * 3_600_000;
/// Rows outlive the results of their calls.
const ROWS_KEPT_MS: Millis = 30 * 24 * 3_600_000;
/// Its last use is written down this often.
const NOTE_USE_EVERY_MS: Millis = 3_600_000;

/// What makes a variant another function than its base.
pub struct Variant {
    pub base: FunctionId,
    /// As the client sent them; only the container reads them.
    pub params: Bytes,
    pub options: wire::FunctionOptions,
    pub created_at: Millis,
    used_at: AtomicU64,
    use_noted_at: AtomicU64,
}

impl Variant {
    /// It is of one version of its app, and does not follow its base.
    pub fn is_pinned(&self) -> bool {
        pinned_version(&self.options).is_some()
    }

    fn new(record: &VariantRecord) -> Result<Self, Status> {
        let options = wire::FunctionOptions::decode(record.options.clone());
        Ok(Self {
            base: record.base.clone(),
            params: record.params.clone(),
            options: options.map_err(|e| Status::data_loss(format!("stored options cannot be read: {e}")))?,
            created_at: record.created_at_ms,
            used_at: AtomicU64::new(steady_ms()),
            use_noted_at: AtomicU64::new(record.last_used_ms),
        })
    }
}

/// The id of `base` with these parameters and (normalised) options.
pub fn variant_id(salt: &str, base: &FunctionId, params: &[u8], options: &wire::FunctionOptions) -> FunctionId {
    let (params, options) = (hex::encode(params), hex::encode(options.encode_to_vec()));
    let suffix = derive_suffix(salt, &["variant", base.as_str(), &params, &options]);
    FunctionId::parse(&format!("fu-{suffix}")).unwrap_or_else(FunctionId::random)
}

/// The definition of a variant of `base`, which is the live definition or that of the version it is pinned to.
///
/// # Errors
/// `INVALID_ARGUMENT` when the options contradict the definition or themselves.
pub fn variant_definition(base: &Definition, options: &wire::FunctionOptions) -> Result<Definition, Status> {
    let raw = options::with_options(&base.raw, options)
        .map_err(|e| Status::internal(format!("a stored definition cannot be read: {e}")))?;
    // The same id as the base's: there is no other text of it anywhere.
    Definition::new(base.id.clone(), raw, base.client)
}

impl Owner {
    /// When a variant was asked for last.
    fn used_at(&self) -> Millis {
        self.variant.as_ref().map_or(Millis::MAX, |variant| variant.used_at.load(Ordering::Relaxed))
    }
}

impl Owner {
    /// In the app's log.
    pub fn say_warnings(&self, warnings: &[wire::Warning]) {
        for warning in warnings {
            let text = format!("[dorian] {}\n", warning.message);
            self.app.log.append(wall_ms(), self.origin(), Descriptor::System, text);
        }
    }
}

pub fn has_nothing_to_do(owner: &Owner) -> bool {
    owner.task_ids().is_empty() && owner.read(|calls| calls.call_ids().next().is_none())
}

fn variants_allowed(definition_bytes: usize) -> usize {
    (MAX_VARIANT_BYTES / definition_bytes.max(1)).clamp(MIN_VARIANTS, MAX_VARIANTS)
}

/// Which of the `idle` variants (last use, id) leave memory, of `total` there are: those unused for a day, and if that
/// leaves `limit` or more, the longest unused until there is a quarter's room.
fn plan_forgetting(
    mut idle: Vec<(Millis, FunctionId)>,
    total: usize,
    limit: usize,
    now: Millis,
) -> Vec<(Millis, FunctionId)> {
    idle.sort();
    let old = idle.iter().filter(|(used_at, _)| used_at + IDLE_KEPT_MS < now).count();
    let above = if total - old >= limit { total - limit / 4 * 3 } else { 0 };
    idle.truncate(old.max(above));
    idle
}

impl Shared {
    /// The variant of `base`, made and written down when it is new.
    pub async fn ensure_variant(
        self: &Arc<Self>,
        base: &Arc<Owner>,
        definition: Definition,
        params: Bytes,
        options: wire::FunctionOptions,
    ) -> Result<Arc<Owner>, Status> {
        let id = variant_id(&self.config.salt, &base.id, &params, &options);
        if let Some(known) = self.owner_in_use(&id) {
            return Ok(known);
        }
        let now = wall_ms();
        let limit = variants_allowed(definition.bytes().len());
        if self.variants_of(&base.id).len() >= limit && self.put_away(self.variants_of(&base.id), limit) >= limit {
            return Err(Status::resource_exhausted(format!(
                "function `{}` has {limit} variants at work; parameters and options that differ for each call start \
                 a container for each: pass such values as arguments of one instance instead",
                base.tag
            )));
        }
        let record = VariantRecord {
            id,
            base: base.id.clone(),
            app: base.app.id.clone(),
            params,
            options: options.encode_to_vec().into(),
            created_at_ms: now,
            last_used_ms: now,
        };
        let written = self.store.write(vec![Write::Variant(record.clone())]).await;
        written.map_err(|e| crate::rpc::store_status(&e))?;
        // The answer to whoever asks for a variant has no place for it. What the base says was said already.
        let [mut new, old] = [&definition, &*base.definition()].map(|d| warnings(d, self.capacity.milli_cpu()));
        new.retain(|warning| !old.contains(warning));
        let owner = self.adopt_variant(base, definition, &record)?;
        self.still_wanted(&owner)?;
        owner.say_warnings(&new);
        Ok(owner)
    }

    /// What the definition of a variant with these options is made of.
    ///
    /// # Errors
    /// `NOT_FOUND` when it is pinned to a version that is not there, or that does not have the function.
    pub async fn definition_below(
        &self,
        base: &Owner,
        options: &wire::FunctionOptions,
    ) -> Result<Arc<Definition>, Status> {
        match pinned_version(options) {
            None => Ok(base.definition()),
            Some(version) => {
                let version = self.version_of(&base.app, version).await?;
                self.definition_in(&base.app, &version, &base.id).await
            }
        }
    }

    fn adopt_variant(
        &self,
        base: &Arc<Owner>,
        definition: Definition,
        record: &VariantRecord,
    ) -> Result<Arc<Owner>, Status> {
        let variant = Variant::new(record)?;
        let owner =
            Owner::new(record.id.clone(), base.tag.clone(), base.app.clone(), definition.into(), record.created_at_ms);
        owner.set_published(base.is_published() || variant.is_pinned());
        let owner = Arc::new(owner.with_variant(variant));
        // Whoever came first has it.
        Ok(self.owners.entry(record.id.clone()).or_insert(owner).clone())
    }

    /// A stored variant comes back into memory; `None` when its base or its app is gone.
    pub async fn restore_variant(&self, record: &VariantRecord) -> Option<Arc<Owner>> {
        let base = self.owners.get(&record.base).map(|o| o.clone())?;
        let options = wire::FunctionOptions::decode(record.options.clone()).ok()?;
        let below = self.definition_below(&base, &options).await;
        let adopted = below
            .and_then(|below| variant_definition(&below, &options))
            .and_then(|definition| self.adopt_variant(&base, definition, record));
        match adopted {
            Ok(owner) => {
                owner.presume_proven();
                Some(owner)
            }
            Err(error) => {
                tracing::warn!(variant = %record.id, error = error.message(), "a variant cannot be restored");
                None
            }
        }
    }

    /// The function, taken out of the store if it is a variant that was put away. Notes that it is used.
    pub async fn find_owner(&self, id: &FunctionId) -> Result<Option<Arc<Owner>>, StoreError> {
        if let Some(known) = self.owner_in_use(id) {
            return Ok(Some(known));
        }
        let record = self.store.variant(id).await?;
        match record {
            Some(record) => Ok(self.restore_variant(&record).await),
            None => Ok(None),
        }
    }

    /// Notes the use while it holds the entry, so that `forget_variants` sees it or has taken the entry away before.
    fn owner_in_use(&self, id: &FunctionId) -> Option<Arc<Owner>> {
        let entry = self.owners.get(id)?;
        let Some(variant) = &entry.variant else { return Some(entry.clone()) };
        variant.used_at.store(steady_ms(), Ordering::Relaxed);
        let now = wall_ms();
        if variant.use_noted_at.load(Ordering::Relaxed) + NOTE_USE_EVERY_MS < now {
            variant.use_noted_at.store(now, Ordering::Relaxed);
            self.store.write_later(vec![Write::TouchVariant(id.clone(), now)]);
        }
        Some(entry.clone())
    }

    /// The variants of a function that are in memory.
    pub fn variants_of(&self, base: &FunctionId) -> Vec<Arc<Owner>> {
        let is_variant = |owner: &Owner| owner.variant.as_ref().is_some_and(|v| v.base == *base);
        self.owners.iter().filter(|o| is_variant(o)).map(|o| o.clone()).collect()
    }

    /// Those of them that follow it.
    pub fn followers_of(&self, base: &FunctionId) -> Vec<Arc<Owner>> {
        let mut variants = self.variants_of(base);
        variants.retain(|owner| owner.variant.as_ref().is_some_and(|variant| !variant.is_pinned()));
        variants
    }

    /// `base` has another definition: its variants get theirs made of it anew.
    pub fn rebase_variants(self: &Arc<Self>, base: &Owner) {
        let definition = base.definition();
        for owner in self.followers_of(&base.id) {
            let Some(variant) = &owner.variant else { continue };
            match variant_definition(&definition, &variant.options) {
                Ok(definition) => {
                    owner.set_definition(self, definition.into());
                    owner.set_published(true);
                    owner.wake(self);
                }
                Err(error) => {
                    tracing::warn!(variant = %owner.id, error = error.message(), "a variant keeps its old definition");
                }
            }
        }
    }

    /// Lets variants leave memory that have nothing to do: those unused for a day, and from `limit` of them on the
    /// longest unused. Returns how many stay.
    fn put_away(self: &Arc<Self>, variants: Vec<Arc<Owner>>, limit: usize) -> usize {
        let mut staying = variants.len();
        let idle = variants.iter().filter(|owner| has_nothing_to_do(owner));
        let idle = idle.map(|owner| (owner.used_at(), owner.id.clone())).collect();
        drop(variants);
        for (used_at, id) in plan_forgetting(idle, staying, limit, steady_ms()) {
            let still_idle =
                |_: &FunctionId, owner: &Arc<Owner>| owner.used_at() == used_at && has_nothing_to_do(owner);
            if let Some((_, owner)) = self.owners.remove_if(&id, still_idle) {
                owner.close(self);
                staying -= 1;
            }
        }
        staying
    }

    /// Lets go what is not needed, in memory and on disk.
    pub fn forget_variants(self: &Arc<Self>) {
        let all = self.owners.iter().filter(|o| o.variant.is_some()).map(|o| o.clone()).collect();
        self.put_away(all, usize::MAX);
        self.store.write_later(vec![Write::ExpireVariants(wall_ms().saturating_sub(ROWS_KEPT_MS))]);
    }
}

#[cfg(test)]
mod tests {
    use client_protocol::Passthrough;
    use types::ids::DefinitionId;

    use super::*;
    use crate::caller::ClientVersion;

    #[test]
    fn the_same_parameters_and_options_are_the_same_variant_and_others_another() {
        let base = FunctionId::random();
        let options = wire::FunctionOptions { timeout_secs: Some(1), ..Default::default() };
        let id = |params: &[u8], options: &wire::FunctionOptions| variant_id("salt", &base, params, options);
        assert_eq!(id(b"p", &options), id(b"p", &options));
        assert_ne!(id(b"p", &options), id(b"q", &options));
        assert_ne!(id(b"p", &options), id(b"p", &wire::FunctionOptions::default()));
        assert_ne!(id(b"p", &options), variant_id("salt", &FunctionId::random(), b"p", &options));
    }

    #[test]
    fn variants_leave_memory_after_a_day_and_the_longest_unused_when_there_are_too_many() {
        let now = 10 * IDLE_KEPT_MS;
        let used = |ages: &[Millis]| -> Vec<(Millis, FunctionId)> {
            ages.iter().map(|age| (now - age, FunctionId::random())).collect()
        };
        let forgotten = |ages: &[Millis], total, limit| {
            plan_forgetting(used(ages), total, limit, now).iter().map(|(at, _)| now - at).collect::<Vec<_>>()
        };
        assert_eq!(forgotten(&[5, 2 * IDLE_KEPT_MS, 7], 9, 100), [2 * IDLE_KEPT_MS]);
        assert_eq!(forgotten(&[5, 1, 7, 3], 8, 8), [7, 5]);
        assert_eq!(forgotten(&[5, 1], 8, 8), [5, 1]);
        assert!(forgotten(&[5, 1], 7, 8).is_empty());
    }

    #[test]
    fn large_definitions_allow_fewer_variants() {
        assert_eq!([0, 1 << 10, 1 << 20, 1 << 30].map(variants_allowed), [10_000, 10_000, 1_024, 64]);
    }

    #[test]
    fn a_variant_differs_from_its_base_in_its_options_only() {
        let raw = Passthrough::from_message(&wire::Function {
            function_name: "Model.*".into(),
            is_class: true,
            timeout_secs: 60,
            ..Default::default()
        });
        let base = Definition::new(DefinitionId::random(), raw, ClientVersion(1, 6, 4)).unwrap();
        let options = wire::FunctionOptions { timeout_secs: Some(7), ..Default::default() };
        let variant = variant_definition(&base, &options).unwrap();
        assert_eq!((variant.timeout_ms(), base.timeout_ms()), (7_000, 60_000));
        assert_eq!((variant.view.function_name.as_str(), variant.view.is_class), ("Model.*", true));
        assert_eq!(variant.id, base.id);
    }
}

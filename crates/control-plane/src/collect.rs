//! What of the image store may go. Pure: from what there is and who uses it to what to remove, with a reason for each
//! thing that stays.
//!
//! An image stays while something uses it, or when it was used lately; with it stay all its layers. A layer also stays
//! when a container or a build has it, or when it was used lately by itself (the client's package, a mount, a base).
//! An image of which every layer stays anyway is not forgotten: that would cost a build and give nothing back. So no
//! image that is kept ever lacks a layer, and deciding again after the removal removes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use types::ids::{AppId, ImageId, TaskId};

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerView {
    pub key: String,
    pub bytes: u64,
    pub used_ms: u64,
}

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    pub id: ImageId,
    /// Lowest first.
    pub layers: Vec<String>,
    pub used_ms: u64,
}

/// Everything that the decision looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreView {
    pub layers: Vec<LayerView>,
    pub images: Vec<ImageView>,
    /// Who needs an image.
    pub image_users: Vec<(ImageId, Reason)>,
    /// Who needs a layer, whichever image it belongs to.
    pub layer_users: Vec<(String, Reason)>,
    /// What was used at this time or later stays.
    pub keep_since_ms: u64,
}

/// Why something stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Container(TaskId),
    /// An app that runs or is deployed, with its name if it has one.
    App(AppId, String),
    /// A published name.
    Name(String),
    /// A build or a start that goes on.
    InProgress,
    /// Its layers are all those of another image that stays, or that one's lower ones.
    BaseOf(ImageId),
    RecentUse,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(task) => write!(f, "container {task}"),
            Self::App(id, name) if name.is_empty() => write!(f, "app {id}"),
            Self::App(_, name) => write!(f, "app `{name}`"),
            Self::Name(name) => write!(f, "name `{name}`"),
            Self::InProgress => write!(f, "a build or a start"),
            Self::BaseOf(image) => write!(f, "base of {image}"),
            Self::RecentUse => write!(f, "recent use"),
        }
    }
}

/// What goes, and why the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Forgotten first, so that no image names a layer that is gone.
    pub forget: Vec<ImageId>,
    /// Keys of layers.
    pub remove: Vec<String>,
    pub kept_images: BTreeMap<ImageId, BTreeSet<Reason>>,
    pub kept_layers: BTreeMap<String, BTreeSet<Reason>>,
}

pub fn plan_collection(view: &StoreView) -> Plan {
    let mut plan = Plan::default();
    let mut users: HashMap<&ImageId, BTreeSet<Reason>> = HashMap::new();
    for (image, reason) in &view.image_users {
        users.entry(image).or_default().insert(reason.clone());
    }
    for image in &view.images {
        let mut reasons = users.remove(&image.id).unwrap_or_default();
        if image.used_ms >= view.keep_since_ms {
            reasons.insert(Reason::RecentUse);
        }
        if reasons.is_empty() {
            continue;
        }
        for layer in &image.layers {
            plan.kept_layers.entry(layer.clone()).or_default().extend(reasons.iter().cloned());
        }
        plan.kept_images.insert(image.id.clone(), reasons);
    }
    for (layer, reason) in &view.layer_users {
        plan.kept_layers.entry(layer.clone()).or_default().insert(reason.clone());
    }
    for layer in view.layers.iter().filter(|layer| layer.used_ms >= view.keep_since_ms) {
        plan.kept_layers.entry(layer.key.clone()).or_default().insert(Reason::RecentUse);
    }
    decide_bases(view, &mut plan);
    let there: HashSet<&String> = view.layers.iter().map(|layer| &layer.key).collect();
    plan.kept_layers.retain(|key, _| there.contains(key));
    let goes = |layer: &&LayerView| !plan.kept_layers.contains_key(&layer.key);
    plan.remove = view.layers.iter().filter(goes).map(|layer| layer.key.clone()).collect();
    plan
}

/// Of the images that nobody uses, those stay of which no layer goes.
fn decide_bases(view: &StoreView, plan: &mut Plan) {
    let users: Vec<&ImageView> = view.images.iter().filter(|image| plan.kept_images.contains_key(&image.id)).collect();
    let unused = view.images.iter().filter(|image| !plan.kept_images.contains_key(&image.id));
    let mut bases = Vec::new();
    for image in unused {
        if !image.layers.iter().all(|layer| plan.kept_layers.contains_key(layer)) {
            plan.forget.push(image.id.clone());
            continue;
        }
        let mut above = users.iter().filter(|user| user.layers.starts_with(&image.layers));
        let reason = above.next().map_or(Reason::RecentUse, |user| Reason::BaseOf(user.id.clone()));
        bases.push((image.id.clone(), BTreeSet::from([reason])));
    }
    plan.kept_images.extend(bases);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(id: &str, layers: &[&str], used_ms: u64) -> ImageView {
        let layers = layers.iter().map(|layer| (*layer).to_owned()).collect();
        ImageView { id: image_id(id), layers, used_ms }
    }

    fn image_id(name: &str) -> ImageId {
        ImageId::parse(&format!("im-{name:0>22}")).unwrap()
    }

    fn layers(keys: &[&str]) -> Vec<LayerView> {
        keys.iter().map(|key| LayerView { key: (*key).to_owned(), bytes: 1, used_ms: 0 }).collect()
    }

    #[test]
    fn an_image_in_use_keeps_its_layers_and_the_rest_goes() {
        let view = StoreView {
            layers: layers(&["base", "mine", "other", "stray"]),
            images: vec![image("a", &["base", "mine"], 5), image("b", &["base", "other"], 5), image("c", &["base"], 5)],
            image_users: vec![(image_id("a"), Reason::Name("x:1".to_owned()))],
            layer_users: Vec::new(),
            keep_since_ms: 10,
        };
        let plan = plan_collection(&view);
        assert_eq!(plan.forget, [image_id("b")]);
        assert_eq!(plan.remove, ["other", "stray"]);
        assert_eq!(plan.kept_images[&image_id("c")], BTreeSet::from([Reason::BaseOf(image_id("a"))]));
        assert_eq!(plan.kept_layers["mine"], BTreeSet::from([Reason::Name("x:1".to_owned())]));
    }

    #[test]
    fn what_was_used_lately_stays() {
        let mut view = StoreView {
            layers: layers(&["base", "client"]),
            images: vec![image("a", &["base"], 10)],
            keep_since_ms: 10,
            ..StoreView::default()
        };
        view.layers[1].used_ms = 11;
        assert_eq!(plan_collection(&view).remove, Vec::<String>::new());
        view.keep_since_ms = 12;
        let plan = plan_collection(&view);
        assert_eq!((plan.forget.len(), plan.remove.len()), (1, 2));
    }

    fn any_view() -> impl Strategy<Value = StoreView> {
        let key = |n: u8| format!("layer-{n}");
        let stack = proptest::collection::btree_set(0..12_u8, 0..6);
        let images = proptest::collection::vec((stack, 0..20_u64), 0..8);
        let present = proptest::collection::vec((0..12_u8, 0..20_u64), 0..12);
        let image_users = proptest::collection::vec(0..10_usize, 0..4);
        let layer_users = proptest::collection::vec(0..12_u8, 0..4);
        (images, present, image_users, layer_users, 0..25_u64).prop_map(
            move |(images, present, image_users, layer_users, keep_since_ms)| {
                let present: BTreeMap<u8, u64> = present.into_iter().collect();
                let layers = present.into_iter().map(|(n, used_ms)| LayerView { key: key(n), bytes: 1, used_ms });
                let id = |n: usize| image_id(&format!("{n}"));
                let image = |(n, (stack, used_ms)): (usize, (BTreeSet<u8>, u64))| ImageView {
                    id: id(n),
                    layers: stack.into_iter().map(key).collect(),
                    used_ms,
                };
                StoreView {
                    layers: layers.collect(),
                    images: images.into_iter().enumerate().map(image).collect(),
                    image_users: image_users.into_iter().map(|n| (id(n), Reason::Name("n".to_owned()))).collect(),
                    layer_users: layer_users.into_iter().map(|n| (key(n), Reason::InProgress)).collect(),
                    keep_since_ms,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_that_is_used_goes_and_no_image_that_stays_loses_a_layer(view in any_view()) {
            let plan = plan_collection(&view);
            let removed: HashSet<&String> = plan.remove.iter().collect();
            for image in &view.images {
                let used = view.image_users.iter().any(|(id, _)| *id == image.id) || image.used_ms >= view.keep_since_ms;
                let forgotten = plan.forget.contains(&image.id);
                prop_assert!(!(used && forgotten));
                prop_assert_eq!(forgotten, !plan.kept_images.contains_key(&image.id));
                if !forgotten {
                    prop_assert!(image.layers.iter().all(|layer| !removed.contains(layer)));
                }
            }
            for (layer, _) in &view.layer_users {
                prop_assert!(!removed.contains(layer));
            }
        }

        #[test]
        fn every_layer_either_goes_or_has_a_reason_to_stay(view in any_view()) {
            let plan = plan_collection(&view);
            for layer in &view.layers {
                let reasons = plan.kept_layers.get(&layer.key);
                prop_assert_eq!(plan.remove.contains(&layer.key), reasons.is_none());
                prop_assert!(reasons.is_none_or(|reasons| !reasons.is_empty()));
            }
        }

        #[test]
        fn collecting_twice_changes_nothing(view in any_view()) {
            let first = plan_collection(&view);
            let mut after = view;
            after.images.retain(|image| !first.forget.contains(&image.id));
            after.layers.retain(|layer| !first.remove.contains(&layer.key));
            let second = plan_collection(&after);
            prop_assert!(second.forget.is_empty() && second.remove.is_empty(), "{second:?}");
            prop_assert_eq!(first.kept_layers, second.kept_layers);
        }

        #[test]
        fn keeping_less_long_never_keeps_more(view in any_view(), later in 0..10_u64) {
            let plan = plan_collection(&view);
            let shorter = plan_collection(&StoreView { keep_since_ms: view.keep_since_ms + later, ..view });
            prop_assert!(plan.remove.iter().all(|layer| shorter.remove.contains(layer)));
        }
    }
}

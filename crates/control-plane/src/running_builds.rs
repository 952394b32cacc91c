//! Image builds that go on now, for the operator: `dorian builds`.

use metadata_store::AppRecord;
use serde::{Deserialize, Serialize};
use types::ids::{AppId, ImageId};

use crate::images::Image;
use crate::shared::Shared;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildList {
    /// The oldest first.
    pub builds: Vec<BuildRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRow {
    pub image: ImageId,
    /// Name of the app that asked first, or its description where it has none.
    pub app: Option<String>,
    pub app_id: Option<AppId>,
    /// The step that it is at, out of how many; none before the first.
    pub step: Option<usize>,
    pub steps: Option<usize>,
    /// That step, as the build's log announces it.
    pub doing: Option<String>,
    pub started_ms: u64,
    /// Requests that wait for it now.
    pub waiters: usize,
}

impl Shared {
    pub fn list_builds(&self) -> BuildList {
        let running = self.images.all().into_iter().filter(|image| image.is_running());
        let mut builds: Vec<BuildRow> = running.map(|image| self.build_row(&image)).collect();
        builds.sort_by(|a, b| (a.started_ms, &a.image).cmp(&(b.started_ms, &b.image)));
        BuildList { builds }
    }

    fn build_row(&self, image: &Image) -> BuildRow {
        let app = image.origin.app.as_ref().and_then(|id| self.apps.get(id).map(|app| app.record()));
        let shown = |record: AppRecord| record.name.unwrap_or(record.description);
        let (step, waiters) = (image.step(), image.waiter_count());
        BuildRow {
            image: image.id.clone(),
            app: app.map(shown).filter(|name| !name.is_empty()),
            app_id: image.origin.app.clone(),
            step: step.as_ref().map(|step| step.number),
            steps: step.as_ref().map(|step| step.total),
            doing: step.map(|step| step.text),
            started_ms: image.origin.started_at,
            waiters,
        }
    }

    /// Stops a build; returns when it has ended.
    ///
    /// # Errors
    /// A sentence: there is no such build, or it had succeeded already.
    pub async fn cancel_build(&self, id: &str) -> Result<(), String> {
        let parsed = ImageId::parse(id);
        let parsed =
            parsed.ok_or_else(|| format!("`{id}` is not an image id; `dorian builds` shows those being built"))?;
        // Not `get`: an operator's question is no use.
        let image = self.images.all().into_iter().find(|image| image.id == parsed);
        let running = image.filter(|image| image.is_running());
        let image =
            running.ok_or_else(|| format!("image `{id}` is not being built; `dorian builds` shows those that are"))?;
        image.cancel();
        // Why it ended is for those who wait for the image.
        match image.ended().await {
            Ok(_) => Err(format!("image `{id}` was finished before it could be stopped")),
            Err(_) => Ok(()),
        }
    }
}

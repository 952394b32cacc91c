//! How an app is changed and stopped: the shell around [`life`](super::life).

use std::sync::Arc;

use calls::Millis;
use metadata_store::{AppRecord, StoreError, Write};
use tonic::Status;
use types::errors::with_causes;

use super::life::{self, Event, Refused};
use super::{App, FINISHED};
use crate::owner::Owner;
use crate::shared::Shared;
use crate::variants::has_nothing_to_do;

/// Why an app is as it was.
#[derive(Debug, thiserror::Error)]
pub enum NotChanged {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Shared {
    /// Carries out one event of an app: decided, written, and then so. Goes on to its end when nobody waits for it any more:
    /// the disk would say one thing and the memory another.
    ///
    /// # Errors
    /// When the event comes too late, or the disk does not take it. Then the app is as it was.
    pub async fn change_app(
        self: &Arc<Self>,
        app: &Arc<App>,
        event: Event,
        change: impl FnOnce(&mut AppRecord) + Send + 'static,
    ) -> Result<(), NotChanged> {
        let (shared, app) = (self.clone(), app.clone());
        let changed = tokio::spawn(async move { shared.change_in_turn(&app, event, change).await });
        // The runtime is going down.
        changed.await.unwrap_or(Err(NotChanged::Store(StoreError::Closed)))
    }

    async fn change_in_turn(
        &self,
        app: &App,
        event: Event,
        change: impl FnOnce(&mut AppRecord),
    ) -> Result<(), NotChanged> {
        let _turn = app.turn().await;
        let mut record = app.record();
        record.state = life::decide(record.state, event)?;
        change(&mut record);
        self.store.write(vec![Write::App(record.clone())]).await?;
        app.update(|known| *known = record);
        Ok(())
    }

    /// Stops an app. When this returns, the disk has it and no call is taken any more; the rest takes its time.
    ///
    /// # Errors
    /// When the disk does not take it: then the app goes on. One that is stopped already is no error.
    pub async fn stop_app(self: Arc<Self>, app: Arc<App>, why: &'static str) -> Result<(), StoreError> {
        // To its end, when whoever asked has gone: an app that is stopped on the disk and not ended here would never end.
        let stopped = tokio::spawn(async move {
            match self.change_in_turn(&app, Event::Stop, |_| {}).await {
                Ok(()) => {
                    self.end_app(app, why);
                    Ok(())
                }
                Err(NotChanged::Refused(_)) => Ok(()),
                Err(NotChanged::Store(error)) => {
                    tracing::error!(app = %app.id, why, error = with_causes(&error), "an app could not be stopped");
                    Err(error)
                }
            }
        });
        stopped.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Ends what an app still does, after its stop was decided.
    pub fn end_app(self: Arc<Self>, app: Arc<App>, why: &'static str) {
        if why == FINISHED {
            tracing::info!(app = %app.id, "app finished");
        } else {
            tracing::info!(app = %app.id, why, "stopping app");
        }
        for owner in self.owners_of(&app.id) {
            owner.close(&self);
        }
        self.unheard.end_app(&self, &app.id);
        self.on_published(&app);
        tokio::spawn(self.see_app_out(app, why));
    }

    /// The last container of a stopped app has ended.
    pub async fn on_app_ended(&self, app: &App, now: Millis) {
        let _turn = app.turn().await;
        let mut record = app.record();
        let Ok(state) = life::decide(record.state, Event::Ended) else { return };
        (record.state, record.stopped_at_ms) = (state, Some(now));
        // If the disk does not take it, the next server finds an app that was being stopped, and does the same.
        self.store.write_later(vec![Write::App(record.clone())]);
        app.update(|known| *known = record);
    }

    /// # Errors
    /// `FAILED_PRECONDITION` when the app was stopped.
    pub fn check_running(&self, app: &App) -> Result<(), Status> {
        match app.is_running() {
            true => Ok(()),
            false => Err(Status::failed_precondition(format!("app `{}` is stopped", app.id))),
        }
    }

    /// Asked once a function is known: a stop looks for the functions after it has changed the app's state, so one of the two
    /// sees the other. A function of an app that has ended would be known for ever.
    ///
    /// # Errors
    /// As [`Self::check_running`].
    pub fn still_wanted(self: &Arc<Self>, owner: &Arc<Owner>) -> Result<(), Status> {
        let checked = self.check_running(&owner.app);
        if checked.is_err() {
            owner.close(self);
            self.owners.remove_if(&owner.id, |_, known| Arc::ptr_eq(known, owner) && has_nothing_to_do(known));
        }
        checked
    }
}

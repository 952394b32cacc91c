//! Requests as clients and runners make them: again and again, until there is an answer that is one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tonic::{Code, Request, Response, Status};
use types::ids::TaskId;

use super::scenario::millis;
use super::world::World;
use crate::caller::{Caller, Principal};
use crate::testing;

/// After a failed try; the real client's pauses grow from a tenth to a few seconds.
const PAUSE: Duration = Duration::from_millis(500);

fn request<M>(message: M, principal: Principal, key: &str) -> Request<M> {
    let mut request = testing::request(message);
    if let Some(caller) = request.extensions_mut().get_mut::<Caller>() {
        (caller.principal, caller.idempotency_key) = (principal, Some(key.to_owned()));
    }
    request
}

/// A client's request.
pub async fn ask<M: Clone, R, F: Future<Output = Result<Response<R>, Status>>>(
    world: &Arc<World>,
    message: M,
    act: impl Fn(Request<M>) -> F,
) -> Result<R, Status> {
    let key = world.new_key();
    ask_with(world, message, &key, act).await
}

/// A client's request under a key of an earlier try.
pub async fn ask_with<M: Clone, R, F: Future<Output = Result<Response<R>, Status>>>(
    world: &Arc<World>,
    message: M,
    key: &str,
    act: impl Fn(Request<M>) -> F,
) -> Result<R, Status> {
    loop {
        match attempt(world, act(request(message.clone(), Principal::Client, key))).await {
            Some(Ok(reply)) => return Ok(reply),
            Some(Err(status)) if !is_retried(&status) => return Err(status),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// A runner's request through its container's socket.
pub async fn ask_from<M: Clone, R, F: Future<Output = Result<Response<R>, Status>>>(
    world: &Arc<World>,
    task: &TaskId,
    message: M,
    act: impl Fn(Request<M>) -> F,
) -> Result<R, Status> {
    let key = world.new_key();
    loop {
        // What the server has answered arrives: the socket is the machine's own. But a connection may break before.
        let asked = act(request(message.clone(), Principal::Container(task.clone()), &key));
        let answer = match world.happens(|faults| faults.broken_wait) {
            true => tokio::time::timeout(world.draw(|random| millis(random, 3_000)), asked).await.ok(),
            false => Some(asked.await),
        };
        match answer {
            Some(Ok(reply)) => return Ok(reply.into_inner()),
            Some(Err(status)) if !is_retried(&status) => return Err(status),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The answer, if it arrives.
async fn attempt<R>(
    world: &Arc<World>,
    act: impl Future<Output = Result<Response<R>, Status>>,
) -> Option<Result<R, Status>> {
    tokio::time::sleep(world.draw(|random| millis(random, 20))).await;
    if world.happens(|faults| faults.lost_request) {
        return None;
    }
    let answer = match world.happens(|faults| faults.broken_wait) {
        true => tokio::time::timeout(world.draw(|random| Duration::from_millis(random.random_range(0..3_000))), act)
            .await
            .ok()?,
        false => act.await,
    };
    let answer = answer.map(Response::into_inner);
    (!world.happens(|faults| faults.lost_reply)).then_some(answer)
}

/// What the client tries again by itself.
fn is_retried(status: &Status) -> bool {
    let always = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Internal, Code::Unknown];
    always.contains(&status.code()) || status.code() == Code::ResourceExhausted
}

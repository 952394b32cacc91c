//! Publishing images under names, and finding them there.

use client_protocol::wire;
use metadata_store::{EnvironmentRecord, ImageRevisionRecord, Write};
use tonic::{Request, Response, Status};
use types::ids::ImageRevisionId;

use crate::caller::Caller;
use crate::clock::{seconds, unique_wall_ms};
use crate::image_names::parse_tag;
use crate::rpc::{Api, store_status};

/// Rows in one page of a list, where the request does not ask for fewer.
const MOST_ROWS: usize = 1_000;

impl Api {
    /// The environment and the `name:tag` that `[environment/]name[:tag]` means.
    fn image_tag(&self, caller: &Caller, text: &str, environment: &str) -> Result<(EnvironmentRecord, String), Status> {
        let (named, tag) = parse_tag(text).map_err(Status::invalid_argument)?;
        Ok((self.environment(caller, named.unwrap_or(environment))?, tag))
    }

    pub(crate) async fn image_publish(
        &self,
        request: Request<wire::ImagePublishRequest>,
    ) -> Result<Response<wire::ImagePublishResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if request.allow_public {
            let text = "images cannot be public: one Dorian server has one workspace, and all in it can use the name";
            return Err(Status::unimplemented(text));
        }
        let (environment, tag) = self.image_tag(&caller, &request.tag, &request.environment_name)?;
        let image = self.image(&request.image_id)?;
        if image.built().is_none() {
            let text = format!("image `{}` is not built, so it cannot be published", image.id);
            return Err(Status::failed_precondition(text));
        }
        let revision = ImageRevisionRecord {
            id: ImageRevisionId::random(),
            environment: environment.id,
            tag,
            image: image.id.clone(),
            created_at_ms: unique_wall_ms(),
        };
        let written = self.shared.store.write(vec![Write::ImageRevision(revision.clone())]).await;
        written.map_err(|e| store_status(&e))?;
        let (image_id, revision_id) = (image.id.to_string(), revision.id.to_string());
        self.shared.images.names.insert(revision);
        Ok(Response::new(wire::ImagePublishResponse { image_id, revision_id }))
    }

    pub(crate) fn image_get_by_tag(
        &self,
        request: Request<wire::ImageGetByTagRequest>,
    ) -> Result<Response<wire::ImageGetByTagResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (environment, tag) = self.image_tag(&caller, &request.tag, &request.environment_name)?;
        let newest = self.shared.images.names.revisions(&environment.id, &tag).into_iter().next();
        let newest = newest.ok_or_else(|| {
            Status::not_found(format!(
                "Image '{tag}' not found in environment '{}'; publish one with `image.publish(\"{tag}\")`, or see `modal image names list`",
                environment.name
            ))
        })?;
        if self.shared.images.get(&newest.image).is_none() {
            return Err(Status::not_found(format!(
                "Image '{tag}' was published as `{}`, which has been deleted since; publish it again",
                newest.image
            )));
        }
        Ok(Response::new(wire::ImageGetByTagResponse { image_id: newest.image.to_string() }))
    }

    pub(crate) fn image_list_tags(
        &self,
        request: Request<wire::ImageListTagsRequest>,
    ) -> Result<Response<wire::ImageListTagsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let environment = self.environment(&caller, &request.environment_name)?;
        // The token is the last name of the page before.
        let mut tags = self.shared.images.names.of_environment(&environment.id);
        tags.retain(|(_, last)| {
            last.tag.starts_with(&request.tag_prefix)
                && last.tag > request.page_token
                && (request.image_id.is_empty() || last.image.as_str() == request.image_id)
        });
        let next_page_token =
            cut_page(&mut tags, request.max_objects).map_or(String::new(), |(_, last)| last.tag.clone());
        let item = |(first, last): &(ImageRevisionRecord, ImageRevisionRecord)| wire::ImageListTagsItem {
            tag: last.tag.clone(),
            image_id: last.image.to_string(),
            revision_id: last.id.to_string(),
            created_at: seconds(first.created_at_ms),
            updated_at: seconds(last.created_at_ms),
            last_published_by: String::new(),
        };
        let items = tags.iter().map(item).collect();
        Ok(Response::new(wire::ImageListTagsResponse { items, next_page_token, environment_name: environment.name }))
    }

    pub(crate) fn image_tag_revisions(
        &self,
        request: Request<wire::ImageTagRevisionsRequest>,
    ) -> Result<Response<wire::ImageTagRevisionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (environment, tag) = self.image_tag(&caller, &request.tag, &request.environment_name)?;
        // The token is the time of the last row before; no two revisions have the same.
        let mut revisions = self.shared.images.names.revisions(&environment.id, &tag);
        if !request.page_token.is_empty() {
            let before: u64 = request.page_token.parse().map_err(|_| {
                Status::invalid_argument(format!("`{}` is not a page token of this list", request.page_token))
            })?;
            revisions.retain(|revision| revision.created_at_ms < before);
        }
        let next_page_token =
            cut_page(&mut revisions, request.max_objects).map_or(String::new(), |last| last.created_at_ms.to_string());
        let item = |revision: &ImageRevisionRecord| wire::ImageTagRevisionsItem {
            image_id: revision.image.to_string(),
            revision_id: revision.id.to_string(),
            created_at: seconds(revision.created_at_ms),
            published_by: String::new(),
        };
        Ok(Response::new(wire::ImageTagRevisionsResponse {
            items: revisions.iter().map(item).collect(),
            next_page_token,
            tag,
            environment_name: environment.name,
        }))
    }

    pub(crate) async fn image_name_delete(
        &self,
        request: Request<wire::ImageNameDeleteRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let (environment, tag) = self.image_tag(&caller, &request.into_inner().tag, "")?;
        if self.shared.images.names.revisions(&environment.id, &tag).is_empty() {
            let text = format!("Image '{tag}' not found in environment '{}'; nothing was deleted", environment.name);
            return Err(Status::not_found(text));
        }
        let gone = vec![Write::DeleteImageTag(environment.id.clone(), tag.clone())];
        self.shared.store.write(gone).await.map_err(|e| store_status(&e))?;
        self.shared.images.names.remove(&environment.id, &tag);
        Ok(Response::new(()))
    }
}

/// Cuts a list to a page; the page's last row when there is more behind it.
fn cut_page<T>(rows: &mut Vec<T>, wanted: u32) -> Option<&T> {
    let most = if wanted == 0 { MOST_ROWS } else { (wanted as usize).min(MOST_ROWS) };
    if rows.len() <= most {
        return None;
    }
    rows.truncate(most);
    rows.last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_not_the_last_ends_with_a_token() {
        let mut rows = vec![1, 2, 3];
        assert_eq!(cut_page(&mut rows, 2), Some(&2));
        assert_eq!(rows, [1, 2]);
        assert_eq!(cut_page(&mut rows, 2), None);
    }
}

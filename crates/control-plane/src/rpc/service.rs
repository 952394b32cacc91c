//! The methods of the client's service, each handed to its resource's file.

use client_protocol::{ModalClient, wire};
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};
use types::objects::ObjectKind;

use crate::caller::Caller;
use crate::rpc::Api;
use crate::rpc::dicts::EntryStream;
use crate::rpc::generators::ItemStream;
use crate::rpc::images::JoinStream;
use crate::rpc::logs::LogStream;
use crate::rpc::shared_volumes::FileStream;

type Reply<T> = Result<Response<T>, Status>;

fn unserved(method: &str, why: &str) -> Status {
    Status::unimplemented(format!("`{method}` is not served: {why}"))
}

#[tonic::async_trait]
impl ModalClient for Api {
    type AppGetLogsStream = LogStream;
    type ImageJoinStreamingStream = JoinStream;
    type DictContentsStream = EntryStream;
    type FunctionCallGetDataOutStream = ItemStream;
    type FunctionCallGetDataInStream = ItemStream;
    type SharedVolumeListFilesStreamStream = FileStream;
    type VolumeListFilesStream = BoxStream<'static, Result<wire::VolumeListFilesResponse, Status>>;
    type VolumeListFiles2Stream = BoxStream<'static, Result<wire::VolumeListFiles2Response, Status>>;

    async fn app_create(&self, request: Request<wire::AppCreateRequest>) -> Reply<wire::AppCreateResponse> {
        self.app_create(request).await
    }

    async fn app_heartbeat(&self, request: Request<wire::AppHeartbeatRequest>) -> Reply<()> {
        self.app_heartbeat(&request.get_ref().app_id)
    }

    async fn app_publish(&self, request: Request<wire::AppPublishRequest>) -> Reply<wire::AppPublishResponse> {
        self.app_publish(request).await
    }

    async fn app_client_disconnect(&self, request: Request<wire::AppClientDisconnectRequest>) -> Reply<()> {
        self.app_client_disconnect(request.get_ref()).await
    }

    async fn app_get_by_deployment_name(
        &self,
        request: Request<wire::AppGetByDeploymentNameRequest>,
    ) -> Reply<wire::AppGetByDeploymentNameResponse> {
        self.app_get_by_deployment_name(request)
    }

    async fn app_get_layout(&self, request: Request<wire::AppGetLayoutRequest>) -> Reply<wire::AppGetLayoutResponse> {
        self.app_get_layout(&request.get_ref().app_id)
    }

    async fn app_get_objects(
        &self,
        request: Request<wire::AppGetObjectsRequest>,
    ) -> Reply<wire::AppGetObjectsResponse> {
        self.app_get_objects(request.get_ref())
    }

    async fn app_set_objects(&self, request: Request<wire::AppSetObjectsRequest>) -> Reply<()> {
        self.app_set_objects(request).await
    }

    async fn app_deploy(&self, request: Request<wire::AppDeployRequest>) -> Reply<wire::AppDeployResponse> {
        self.app_deploy(request).await
    }

    async fn app_deployment_history(
        &self,
        request: Request<wire::AppDeploymentHistoryRequest>,
    ) -> Reply<wire::AppDeploymentHistoryResponse> {
        self.app_deployment_history(&request.get_ref().app_id).await
    }

    async fn app_rollback(&self, request: Request<wire::AppRollbackRequest>) -> Reply<wire::AppRollbackResponse> {
        self.app_rollback(request).await
    }

    async fn app_rollover(&self, request: Request<wire::AppRolloverRequest>) -> Reply<wire::AppRolloverResponse> {
        self.app_rollover(request).await
    }

    async fn app_promote(&self, request: Request<wire::AppPromoteRequest>) -> Reply<wire::AppPromoteResponse> {
        self.app_promote(request).await
    }

    async fn app_get_info(&self, request: Request<wire::AppGetInfoRequest>) -> Reply<wire::AppGetInfoResponse> {
        self.app_get_info(&request.get_ref().app_id)
    }

    async fn object_suggest(&self, request: Request<wire::ObjectSuggestRequest>) -> Reply<wire::ObjectSuggestResponse> {
        self.object_suggest(request)
    }

    async fn app_list(&self, request: Request<wire::AppListRequest>) -> Reply<wire::AppListResponse> {
        self.app_list(request)
    }

    async fn app_stop(&self, request: Request<wire::AppStopRequest>) -> Reply<()> {
        self.app_stop(&request.get_ref().app_id).await
    }

    async fn app_get_lifecycle(
        &self,
        request: Request<wire::AppGetLifecycleRequest>,
    ) -> Reply<wire::AppGetLifecycleResponse> {
        self.app_get_lifecycle(&request.get_ref().app_id)
    }

    async fn app_get_or_create(
        &self,
        request: Request<wire::AppGetOrCreateRequest>,
    ) -> Reply<wire::AppGetOrCreateResponse> {
        self.app_get_or_create(request).await
    }

    async fn app_set_tags(&self, request: Request<wire::AppSetTagsRequest>) -> Reply<()> {
        self.app_set_tags(request.into_inner()).await
    }

    async fn app_get_tags(&self, request: Request<wire::AppGetTagsRequest>) -> Reply<wire::AppGetTagsResponse> {
        self.app_get_tags(&request.get_ref().app_id)
    }

    async fn app_get_logs(&self, request: Request<wire::AppGetLogsRequest>) -> Reply<Self::AppGetLogsStream> {
        self.app_get_logs(request.into_inner()).await.map(Response::new)
    }

    async fn app_fetch_logs(&self, request: Request<wire::AppFetchLogsRequest>) -> Reply<wire::AppFetchLogsResponse> {
        self.app_fetch_logs(request.get_ref()).await.map(Response::new)
    }

    async fn app_count_logs(&self, request: Request<wire::AppCountLogsRequest>) -> Reply<wire::AppCountLogsResponse> {
        self.app_count_logs(request.get_ref()).await.map(Response::new)
    }

    async fn environment_get_or_create(
        &self,
        request: Request<wire::EnvironmentGetOrCreateRequest>,
    ) -> Reply<wire::EnvironmentGetOrCreateResponse> {
        self.environment_get_or_create(request).await
    }

    async fn environment_list(&self, _request: Request<()>) -> Reply<wire::EnvironmentListResponse> {
        Ok(Response::new(self.list_environments()))
    }

    async fn environment_create(&self, request: Request<wire::EnvironmentCreateRequest>) -> Reply<()> {
        self.create_environment(&request.get_ref().name).await.map(|_| Response::new(()))
    }

    async fn environment_delete(&self, request: Request<wire::EnvironmentDeleteRequest>) -> Reply<()> {
        self.delete_environment(&request.get_ref().name).await
    }

    async fn environment_update(
        &self,
        request: Request<wire::EnvironmentUpdateRequest>,
    ) -> Reply<wire::EnvironmentListItem> {
        self.update_environment(request.into_inner()).await
    }

    async fn function_precreate(
        &self,
        request: Request<wire::FunctionPrecreateRequest>,
    ) -> Reply<wire::FunctionPrecreateResponse> {
        self.function_precreate(request.get_ref())
    }

    async fn function_create(
        &self,
        request: Request<wire::FunctionCreateRequest>,
    ) -> Reply<wire::FunctionCreateResponse> {
        self.function_create(request).await
    }

    async fn function_get(&self, request: Request<wire::FunctionGetRequest>) -> Reply<wire::FunctionGetResponse> {
        self.function_get(request).await
    }

    async fn function_get_by_id(
        &self,
        request: Request<wire::FunctionGetByIdRequest>,
    ) -> Reply<wire::FunctionGetByIdResponse> {
        self.found(&request.get_ref().function_id).await?;
        self.function_get_by_id(&request.get_ref().function_id)
    }

    async fn function_get_serialized(
        &self,
        request: Request<wire::FunctionGetSerializedRequest>,
    ) -> Reply<wire::FunctionGetSerializedResponse> {
        self.function_get_serialized(&request.get_ref().function_id)
    }

    async fn function_get_current_stats(
        &self,
        request: Request<wire::FunctionGetCurrentStatsRequest>,
    ) -> Reply<wire::FunctionStats> {
        self.found(&request.get_ref().function_id).await?;
        self.function_stats(&request.get_ref().function_id)
    }

    async fn function_bind_params(
        &self,
        request: Request<wire::FunctionBindParamsRequest>,
    ) -> Reply<wire::FunctionBindParamsResponse> {
        self.function_bind_params(request.into_inner()).await
    }

    async fn function_list_variants(
        &self,
        request: Request<wire::FunctionListVariantsRequest>,
    ) -> Reply<wire::FunctionListVariantsResponse> {
        self.function_list_variants(request.into_inner()).await
    }

    async fn class_create(&self, request: Request<wire::ClassCreateRequest>) -> Reply<wire::ClassCreateResponse> {
        self.class_create(request)
    }

    async fn class_get(&self, request: Request<wire::ClassGetRequest>) -> Reply<wire::ClassGetResponse> {
        self.class_get(request)
    }

    async fn function_get_scheduling_params(
        &self,
        request: Request<wire::FunctionGetSchedulingParamsRequest>,
    ) -> Reply<wire::FunctionGetSchedulingParamsResponse> {
        self.scheduling_params(&request.get_ref().function_id)
    }

    async fn function_update_scheduling_params(
        &self,
        request: Request<wire::FunctionUpdateSchedulingParamsRequest>,
    ) -> Reply<wire::FunctionUpdateSchedulingParamsResponse> {
        self.found(&request.get_ref().function_id).await?;
        self.update_scheduling(request.into_inner())
    }

    async fn function_map(&self, request: Request<wire::FunctionMapRequest>) -> Reply<wire::FunctionMapResponse> {
        self.function_map(request).await
    }

    async fn function_put_inputs(
        &self,
        request: Request<wire::FunctionPutInputsRequest>,
    ) -> Reply<wire::FunctionPutInputsResponse> {
        self.function_put_inputs(request.into_inner()).await
    }

    async fn function_get_outputs(
        &self,
        request: Request<wire::FunctionGetOutputsRequest>,
    ) -> Reply<wire::FunctionGetOutputsResponse> {
        self.function_get_outputs(request.into_inner()).await
    }

    async fn function_retry_inputs(
        &self,
        _request: Request<wire::FunctionRetryInputsRequest>,
    ) -> Reply<wire::FunctionRetryInputsResponse> {
        Err(unserved("FunctionRetryInputs", "retries are made by the server"))
    }

    async fn function_call_cancel(&self, request: Request<wire::FunctionCallCancelRequest>) -> Reply<()> {
        self.function_call_cancel(request.into_inner()).await
    }

    async fn function_call_from_id(
        &self,
        request: Request<wire::FunctionCallFromIdRequest>,
    ) -> Reply<wire::FunctionCallFromIdResponse> {
        self.function_call_from_id(&request.get_ref().function_call_id).await
    }

    async fn function_finish_inputs(&self, request: Request<wire::FunctionFinishInputsRequest>) -> Reply<()> {
        self.function_finish_inputs(request.into_inner()).await
    }

    async fn function_call_fetch(
        &self,
        request: Request<wire::FunctionCallFetchRequest>,
    ) -> Reply<wire::FunctionCallFetchResponse> {
        self.function_call_fetch(request.into_inner()).await
    }

    async fn function_call_count(
        &self,
        request: Request<wire::FunctionCallCountRequest>,
    ) -> Reply<wire::FunctionCallCountResponse> {
        self.function_call_count(request.into_inner()).await
    }

    async fn function_call_get_info(
        &self,
        request: Request<wire::FunctionCallGetInfoRequest>,
    ) -> Reply<wire::FunctionCallGetInfoResponse> {
        self.function_call_get_info(&request.get_ref().function_call_id).await
    }

    async fn function_get_call_graph(
        &self,
        request: Request<wire::FunctionGetCallGraphRequest>,
    ) -> Reply<wire::FunctionGetCallGraphResponse> {
        self.function_call_graph(&request.get_ref().function_call_id)
    }

    async fn function_call_get_data_in(
        &self,
        _request: Request<wire::FunctionCallGetDataRequest>,
    ) -> Reply<Self::FunctionCallGetDataInStream> {
        Err(unserved("FunctionCallGetDataIn", "web endpoints are not served yet"))
    }

    async fn function_call_get_data_out(
        &self,
        request: Request<wire::FunctionCallGetDataRequest>,
    ) -> Reply<Self::FunctionCallGetDataOutStream> {
        self.get_data_out(request.get_ref()).map(Response::new)
    }

    async fn function_call_put_data_out(&self, request: Request<wire::FunctionCallPutDataRequest>) -> Reply<()> {
        self.put_data_out(request).await
    }

    async fn container_hello(&self, _request: Request<()>) -> Reply<()> {
        Ok(Response::new(()))
    }

    async fn container_heartbeat(
        &self,
        request: Request<wire::ContainerHeartbeatRequest>,
    ) -> Reply<wire::ContainerHeartbeatResponse> {
        self.container_heartbeat(request).await
    }

    async fn function_get_inputs(
        &self,
        request: Request<wire::FunctionGetInputsRequest>,
    ) -> Reply<wire::FunctionGetInputsResponse> {
        self.function_get_inputs(request).await
    }

    async fn function_put_outputs(&self, request: Request<wire::FunctionPutOutputsRequest>) -> Reply<()> {
        self.function_put_outputs(request)
    }

    async fn task_result(&self, request: Request<wire::TaskResultRequest>) -> Reply<()> {
        self.task_result(request)
    }

    async fn function_get_dynamic_concurrency(
        &self,
        request: Request<wire::FunctionGetDynamicConcurrencyRequest>,
    ) -> Reply<wire::FunctionGetDynamicConcurrencyResponse> {
        self.dynamic_concurrency(&request)
    }

    async fn container_stop(&self, request: Request<wire::ContainerStopRequest>) -> Reply<wire::ContainerStopResponse> {
        self.container_stop(request.get_ref()).map(|_| Response::new(wire::ContainerStopResponse {}))
    }

    async fn task_get_info(&self, request: Request<wire::TaskGetInfoRequest>) -> Reply<wire::TaskGetInfoResponse> {
        self.task_info(&request.get_ref().task_id).await
    }

    async fn task_list(&self, request: Request<wire::TaskListRequest>) -> Reply<wire::TaskListResponse> {
        self.task_list(request)
    }

    async fn image_get_or_create(
        &self,
        request: Request<wire::ImageGetOrCreateRequest>,
    ) -> Reply<wire::ImageGetOrCreateResponse> {
        self.image_get_or_create(request).await
    }

    async fn image_join_streaming(
        &self,
        request: Request<wire::ImageJoinStreamingRequest>,
    ) -> Reply<Self::ImageJoinStreamingStream> {
        self.image_join(request.get_ref()).map(Response::new)
    }

    async fn image_from_id(&self, request: Request<wire::ImageFromIdRequest>) -> Reply<wire::ImageFromIdResponse> {
        self.image_from_id(&request.get_ref().image_id)
    }

    async fn secret_get_or_create(
        &self,
        request: Request<wire::SecretGetOrCreateRequest>,
    ) -> Reply<wire::SecretGetOrCreateResponse> {
        self.secret_get_or_create(request).await
    }

    async fn secret_get_info(
        &self,
        request: Request<wire::SecretGetInfoRequest>,
    ) -> Reply<wire::SecretGetInfoResponse> {
        self.secret_get_info(&request.get_ref().secret_id)
    }

    async fn secret_update(&self, request: Request<wire::SecretUpdateRequest>) -> Reply<()> {
        self.secret_update(request.into_inner()).await
    }

    async fn secret_list(&self, request: Request<wire::SecretListRequest>) -> Reply<wire::SecretListResponse> {
        self.secret_list(request)
    }

    async fn secret_delete(&self, request: Request<wire::SecretDeleteRequest>) -> Reply<()> {
        self.secret_delete(&request.get_ref().secret_id).await
    }

    async fn shared_volume_get_or_create(
        &self,
        request: Request<wire::SharedVolumeGetOrCreateRequest>,
    ) -> Reply<wire::SharedVolumeGetOrCreateResponse> {
        self.shared_volume_get_or_create(request).await
    }

    async fn shared_volume_list(
        &self,
        request: Request<wire::SharedVolumeListRequest>,
    ) -> Reply<wire::SharedVolumeListResponse> {
        self.shared_volume_list(request)
    }

    async fn shared_volume_heartbeat(&self, request: Request<wire::SharedVolumeHeartbeatRequest>) -> Reply<()> {
        self.object_heartbeat(ObjectKind::SharedVolume, &request.get_ref().shared_volume_id).map(Response::new)
    }

    async fn shared_volume_delete(&self, request: Request<wire::SharedVolumeDeleteRequest>) -> Reply<()> {
        self.object_delete(ObjectKind::SharedVolume, &request.get_ref().shared_volume_id).await.map(Response::new)
    }

    async fn shared_volume_put_file(
        &self,
        request: Request<wire::SharedVolumePutFileRequest>,
    ) -> Reply<wire::SharedVolumePutFileResponse> {
        self.shared_volume_put_file(request.into_inner()).await
    }

    async fn shared_volume_get_file(
        &self,
        request: Request<wire::SharedVolumeGetFileRequest>,
    ) -> Reply<wire::SharedVolumeGetFileResponse> {
        self.shared_volume_get_file(request.into_inner()).await
    }

    async fn shared_volume_list_files(
        &self,
        request: Request<wire::SharedVolumeListFilesRequest>,
    ) -> Reply<wire::SharedVolumeListFilesResponse> {
        self.shared_volume_list_files(request.into_inner()).await
    }

    async fn shared_volume_list_files_stream(
        &self,
        request: Request<wire::SharedVolumeListFilesRequest>,
    ) -> Reply<Self::SharedVolumeListFilesStreamStream> {
        self.shared_volume_list_files_stream(request.into_inner()).await.map(Response::new)
    }

    async fn shared_volume_remove_file(&self, request: Request<wire::SharedVolumeRemoveFileRequest>) -> Reply<()> {
        self.shared_volume_remove_file(request.into_inner()).await
    }

    async fn volume_get_or_create(
        &self,
        request: Request<wire::VolumeGetOrCreateRequest>,
    ) -> Reply<wire::VolumeGetOrCreateResponse> {
        self.volume_get_or_create(request).await
    }

    async fn volume_get_by_id(
        &self,
        request: Request<wire::VolumeGetByIdRequest>,
    ) -> Reply<wire::VolumeGetByIdResponse> {
        self.volume_get_by_id(&request.get_ref().volume_id)
    }

    async fn volume_list(&self, request: Request<wire::VolumeListRequest>) -> Reply<wire::VolumeListResponse> {
        self.volume_list(request)
    }

    async fn volume_heartbeat(&self, request: Request<wire::VolumeHeartbeatRequest>) -> Reply<()> {
        self.object_heartbeat(ObjectKind::Volume, &request.get_ref().volume_id).map(Response::new)
    }

    async fn volume_rename(&self, request: Request<wire::VolumeRenameRequest>) -> Reply<()> {
        let wire::VolumeRenameRequest { volume_id, name } = request.into_inner();
        self.object_rename(ObjectKind::Volume, &volume_id, name).await.map(Response::new)
    }

    async fn volume_delete(&self, request: Request<wire::VolumeDeleteRequest>) -> Reply<()> {
        self.object_delete(ObjectKind::Volume, &request.get_ref().volume_id).await.map(Response::new)
    }

    async fn volume_put_files(&self, request: Request<wire::VolumePutFilesRequest>) -> Reply<()> {
        self.volume_put_files(request).await
    }

    async fn volume_put_files2(
        &self,
        request: Request<wire::VolumePutFiles2Request>,
    ) -> Reply<wire::VolumePutFiles2Response> {
        self.volume_put_files2(request).await
    }

    async fn volume_get_file(
        &self,
        request: Request<wire::VolumeGetFileRequest>,
    ) -> Reply<wire::VolumeGetFileResponse> {
        self.volume_get_file(request.into_inner()).await
    }

    async fn volume_get_file2(
        &self,
        request: Request<wire::VolumeGetFile2Request>,
    ) -> Reply<wire::VolumeGetFile2Response> {
        self.volume_get_file2(request).await
    }

    async fn volume_list_files(
        &self,
        request: Request<wire::VolumeListFilesRequest>,
    ) -> Reply<Self::VolumeListFilesStream> {
        let (version, asked) = (Caller::of(&request)?.version, request.get_ref());
        let entries =
            self.volume_list_files(version, &asked.volume_id, &asked.path, asked.recursive, asked.max_entries);
        let entries = entries.await?;
        let answer = |entries| wire::VolumeListFilesResponse { entries };
        Ok(Response::new(Box::pin(entries.map(move |batch| batch.map(answer)))))
    }

    async fn volume_list_files2(
        &self,
        request: Request<wire::VolumeListFiles2Request>,
    ) -> Reply<Self::VolumeListFiles2Stream> {
        let (version, asked) = (Caller::of(&request)?.version, request.get_ref());
        let entries =
            self.volume_list_files(version, &asked.volume_id, &asked.path, asked.recursive, asked.max_entries);
        let entries = entries.await?;
        let answer = |entries| wire::VolumeListFiles2Response { entries };
        Ok(Response::new(Box::pin(entries.map(move |batch| batch.map(answer)))))
    }

    async fn volume_remove_file(&self, request: Request<wire::VolumeRemoveFileRequest>) -> Reply<()> {
        let (repeated, asked) = (self.repeatable(&request, "VolumeRemoveFile")?, request.get_ref());
        self.volume_remove_file(repeated, &asked.volume_id, &asked.path, asked.recursive).await
    }

    async fn volume_remove_file2(&self, request: Request<wire::VolumeRemoveFile2Request>) -> Reply<()> {
        let (repeated, asked) = (self.repeatable(&request, "VolumeRemoveFile2")?, request.get_ref());
        self.volume_remove_file(repeated, &asked.volume_id, &asked.path, asked.recursive).await
    }

    async fn volume_copy_files(&self, request: Request<wire::VolumeCopyFilesRequest>) -> Reply<()> {
        let repeated = self.repeatable(&request, "VolumeCopyFiles")?;
        let wire::VolumeCopyFilesRequest { volume_id, src_paths, dst_path, recursive } = request.into_inner();
        self.volume_copy_files(repeated, &volume_id, src_paths, &dst_path, recursive).await
    }

    async fn volume_copy_files2(&self, request: Request<wire::VolumeCopyFiles2Request>) -> Reply<()> {
        let repeated = self.repeatable(&request, "VolumeCopyFiles2")?;
        let wire::VolumeCopyFiles2Request { volume_id, src_paths, dst_path, recursive } = request.into_inner();
        self.volume_copy_files(repeated, &volume_id, src_paths, &dst_path, recursive).await
    }

    async fn volume_commit(&self, request: Request<wire::VolumeCommitRequest>) -> Reply<wire::VolumeCommitResponse> {
        self.volume_commit(request).await
    }

    async fn volume_reload(&self, request: Request<wire::VolumeReloadRequest>) -> Reply<()> {
        self.volume_reload(request).await
    }

    async fn image_get_by_tag(
        &self,
        request: Request<wire::ImageGetByTagRequest>,
    ) -> Reply<wire::ImageGetByTagResponse> {
        self.image_get_by_tag(request)
    }

    async fn image_publish(&self, request: Request<wire::ImagePublishRequest>) -> Reply<wire::ImagePublishResponse> {
        self.image_publish(request).await
    }

    async fn image_list_tags(
        &self,
        request: Request<wire::ImageListTagsRequest>,
    ) -> Reply<wire::ImageListTagsResponse> {
        self.image_list_tags(request)
    }

    async fn image_tag_revisions(
        &self,
        request: Request<wire::ImageTagRevisionsRequest>,
    ) -> Reply<wire::ImageTagRevisionsResponse> {
        self.image_tag_revisions(request)
    }

    async fn image_name_delete(&self, request: Request<wire::ImageNameDeleteRequest>) -> Reply<()> {
        self.image_name_delete(request).await
    }

    async fn image_delete(&self, request: Request<wire::ImageDeleteRequest>) -> Reply<()> {
        self.image_delete(&request.get_ref().image_id).await
    }

    async fn image_build_chain_get(
        &self,
        request: Request<wire::ImageBuildChainGetRequest>,
    ) -> Reply<wire::ImageBuildChainGetResponse> {
        self.image_build_chain_get(&request.get_ref().image_id)
    }

    async fn mount_get_or_create(
        &self,
        request: Request<wire::MountGetOrCreateRequest>,
    ) -> Reply<wire::MountGetOrCreateResponse> {
        self.mount_get_or_create(request).await
    }

    async fn mount_put_file(&self, request: Request<wire::MountPutFileRequest>) -> Reply<wire::MountPutFileResponse> {
        self.mount_put_file(request.into_inner()).await
    }

    async fn mount_batched_check_existence(
        &self,
        request: Request<wire::MountBatchedCheckExistenceRequest>,
    ) -> Reply<wire::MountBatchedCheckExistenceResponse> {
        self.mount_check_existence(request.into_inner()).await
    }

    async fn dict_get_or_create(
        &self,
        request: Request<wire::DictGetOrCreateRequest>,
    ) -> Reply<wire::DictGetOrCreateResponse> {
        self.dict_get_or_create(request).await
    }

    async fn dict_get_by_id(&self, request: Request<wire::DictGetByIdRequest>) -> Reply<wire::DictGetByIdResponse> {
        self.dict_get_by_id(&request.get_ref().dict_id)
    }

    async fn dict_list(&self, request: Request<wire::DictListRequest>) -> Reply<wire::DictListResponse> {
        self.dict_list(request)
    }

    async fn dict_heartbeat(&self, request: Request<wire::DictHeartbeatRequest>) -> Reply<()> {
        self.object_heartbeat(ObjectKind::Dict, &request.get_ref().dict_id).map(Response::new)
    }

    async fn dict_delete(&self, request: Request<wire::DictDeleteRequest>) -> Reply<()> {
        self.object_delete(ObjectKind::Dict, &request.get_ref().dict_id).await.map(Response::new)
    }

    async fn dict_clear(&self, request: Request<wire::DictClearRequest>) -> Reply<()> {
        self.dict_clear(&request.get_ref().dict_id).await
    }

    async fn dict_get(&self, request: Request<wire::DictGetRequest>) -> Reply<wire::DictGetResponse> {
        self.dict_get(request.into_inner()).await
    }

    async fn dict_contains(&self, request: Request<wire::DictContainsRequest>) -> Reply<wire::DictContainsResponse> {
        self.dict_contains(request.into_inner()).await
    }

    async fn dict_len(&self, request: Request<wire::DictLenRequest>) -> Reply<wire::DictLenResponse> {
        self.dict_len(&request.get_ref().dict_id).await
    }

    async fn dict_update(&self, request: Request<wire::DictUpdateRequest>) -> Reply<wire::DictUpdateResponse> {
        self.dict_update(request).await
    }

    async fn dict_pop(&self, request: Request<wire::DictPopRequest>) -> Reply<wire::DictPopResponse> {
        self.dict_pop(request).await
    }

    async fn dict_contents(&self, request: Request<wire::DictContentsRequest>) -> Reply<Self::DictContentsStream> {
        self.dict_contents(request.get_ref())
    }

    async fn queue_get_or_create(
        &self,
        request: Request<wire::QueueGetOrCreateRequest>,
    ) -> Reply<wire::QueueGetOrCreateResponse> {
        self.queue_get_or_create(request).await
    }

    async fn queue_get_by_id(&self, request: Request<wire::QueueGetByIdRequest>) -> Reply<wire::QueueGetByIdResponse> {
        self.queue_get_by_id(&request.get_ref().queue_id)
    }

    async fn queue_list(&self, request: Request<wire::QueueListRequest>) -> Reply<wire::QueueListResponse> {
        self.queue_list(request).await
    }

    async fn queue_heartbeat(&self, request: Request<wire::QueueHeartbeatRequest>) -> Reply<()> {
        self.object_heartbeat(ObjectKind::Queue, &request.get_ref().queue_id).map(Response::new)
    }

    async fn queue_delete(&self, request: Request<wire::QueueDeleteRequest>) -> Reply<()> {
        self.object_delete(ObjectKind::Queue, &request.get_ref().queue_id).await.map(Response::new)
    }

    async fn queue_clear(&self, request: Request<wire::QueueClearRequest>) -> Reply<()> {
        self.queue_clear(request.into_inner()).await
    }

    async fn queue_put(&self, request: Request<wire::QueuePutRequest>) -> Reply<()> {
        self.queue_put(request).await
    }

    async fn queue_get(&self, request: Request<wire::QueueGetRequest>) -> Reply<wire::QueueGetResponse> {
        self.queue_get(request).await
    }

    async fn queue_next_items(
        &self,
        request: Request<wire::QueueNextItemsRequest>,
    ) -> Reply<wire::QueueNextItemsResponse> {
        self.queue_next_items(request.into_inner()).await
    }

    async fn queue_len(&self, request: Request<wire::QueueLenRequest>) -> Reply<wire::QueueLenResponse> {
        self.queue_len(request.get_ref()).await
    }

    async fn blob_create(&self, request: Request<wire::BlobCreateRequest>) -> Reply<wire::BlobCreateResponse> {
        self.blob_create(request).await
    }

    async fn blob_get(&self, request: Request<wire::BlobGetRequest>) -> Reply<wire::BlobGetResponse> {
        self.blob_get(request).await
    }

    async fn proxy_get(&self, request: Request<wire::ProxyGetRequest>) -> Reply<wire::ProxyGetResponse> {
        self.proxy_get(request.get_ref())
    }

    async fn client_hello(&self, request: Request<()>) -> Reply<wire::ClientHelloResponse> {
        self.hello(&request)
    }

    async fn auth_token_get(&self, _request: Request<wire::AuthTokenGetRequest>) -> Reply<wire::AuthTokenGetResponse> {
        Ok(Response::new(self.auth_token()))
    }

    async fn workspace_name_lookup(&self, _request: Request<()>) -> Reply<wire::WorkspaceNameLookupResponse> {
        Ok(Response::new(wire::WorkspaceNameLookupResponse {
            workspace_name: crate::rpc::WORKSPACE.to_owned(),
            username: "dorian".to_owned(),
        }))
    }
}

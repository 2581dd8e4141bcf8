//! sealkv's Plugins service: deploy, look at, pause, remove.
//!
//! Promise: any member answers. A deploy is checked whole, on the member that is asked, before any
//! of it is replicated. No answer holds a value.
//! Not known here: WebAssembly, how changes are delivered.

#[cfg(feature = "plugins")]
mod service {
    use std::sync::Arc;

    use proto::sealkv::v1 as pb;
    use proto::sealkv::v1::plugin_deploy_request::Part;
    use proto::sealkv::v1::plugins_server::Plugins;
    use tokio::sync::Semaphore;
    use tonic::{Request, Response, Status, Streaming};

    use super::super::gate::AtLearner;
    use super::super::{Edge, header};
    use crate::apply;
    use crate::command::{
        DeletePlugin, DeployPlugin, PluginChunk, PluginState, Position, Refusal, SetPluginState,
    };
    use crate::hooks::{DeployError, Hooks, Upload};
    use crate::mvcc::read_view::ReadView;
    use crate::tables::plugins::Plugin;

    /// Components that are taken in at a time: each is held in memory whole.
    const UPLOADS_MAX: usize = 2;

    /// The Plugins service of a member that can run them.
    #[derive(Clone)]
    pub struct PluginsService {
        edge: Edge,
        hooks: Hooks,
        uploads: Arc<Semaphore>,
    }

    impl PluginsService {
        #[must_use]
        pub fn new(edge: Edge, hooks: Hooks) -> Self {
            let uploads = Arc::new(Semaphore::new(UPLOADS_MAX));
            PluginsService {
                edge,
                hooks,
                uploads,
            }
        }

        fn status_of(&self, view: &ReadView, name: &str) -> Option<pb::PluginStatus> {
            view.plugins.get(name).map(|it| self.status(view, it))
        }

        fn status(&self, view: &ReadView, plugin: &Plugin) -> pb::PluginStatus {
            let spec = &plugin.spec;
            let shown = self.hooks.shown(plugin);
            let (state, error) = match (plugin.state, shown) {
                (PluginState::Running, Some(shown)) => (shown.doing.as_str(), shown.error),
                (PluginState::Running, None) => ("running", String::new()),
                (PluginState::Paused, _) => ("paused", plugin.last_error.clone()),
                (PluginState::Suspended, _) => ("suspended", plugin.last_error.clone()),
                (PluginState::Incompatible, _) => ("incompatible", plugin.last_error.clone()),
            };
            let (revision, sub) = match plugin.cursor {
                Position::Changes { revision, sub } => (revision, sub),
                Position::Snapshot { revision, .. } => (revision, 0),
            };
            pb::PluginStatus {
                name: spec.name.clone(),
                version: spec.version.clone(),
                generation: plugin.generation,
                state: state.to_owned(),
                sha256: hex::encode(spec.sha256),
                watch_prefixes: spec.watch_prefixes.clone(),
                write_prefixes: spec.write_prefixes.clone(),
                cursor_revision: revision,
                cursor_sub_revision: sub,
                lag_revisions: view.revision.saturating_sub(revision),
                dead_letters: plugin.dead_letters,
                effects_committed: plugin.effects_committed,
                puts_dropped_no_lease: plugin.puts_dropped_no_lease,
                last_error: error,
            }
        }

        /// Has the replicated state of a plugin changed; answers with how it is then.
        async fn set_state(
            &self,
            request: &Request<impl Sized>,
            name: String,
            state: PluginState,
        ) -> Result<(Arc<ReadView>, Option<pb::PluginStatus>), Status> {
            let who = self.edge.admit(request, AtLearner::Refused)?;
            let change = SetPluginState {
                name: name.clone(),
                generation: None,
                state,
                reason: String::new(),
            };
            let change = self.edge.permit(&who, change)?;
            let same = |_: &ReadView, change: &SetPluginState| Ok(change.clone());
            let ((), view) = self.edge.write::<_, SetPluginState>(&change, same).await?;
            let status = self.status_of(&view, &name);
            Ok((view, status))
        }
    }

    #[tonic::async_trait]
    impl Plugins for PluginsService {
        async fn deploy(
            &self,
            request: Request<Streaming<pb::PluginDeployRequest>>,
        ) -> Result<Response<pb::PluginDeployResponse>, Status> {
            let who = self.edge.admit(&request, AtLearner::Refused)?;
            let _held = self.uploads.try_acquire().map_err(|_| {
                Status::resource_exhausted("sealkv: too many deployments at a time")
            })?;
            let upload = receive(request.into_inner()).await?;
            let checked = self.hooks.check(upload).await?;
            let deploy = DeployPlugin {
                spec: checked.spec.clone(),
            };
            let deploy = self.edge.permit(&who, deploy)?;
            let uses = |view: &ReadView| view.plugins.uses(&checked.spec.sha256);
            if !uses(&self.edge.replica.view()) {
                for chunk in checked.chunks() {
                    let chunk = self.edge.permit(&who, chunk)?;
                    let same = |_: &ReadView, chunk: &PluginChunk| Ok(chunk.clone());
                    self.edge.write::<_, PluginChunk>(&chunk, same).await?;
                }
            }
            let same = |_: &ReadView, deploy: &DeployPlugin| Ok(deploy.clone());
            let (_, view) = self.edge.write::<_, DeployPlugin>(&deploy, same).await?;
            Ok(Response::new(pb::PluginDeployResponse {
                header: header::full(&*self.edge.replica, view.revision),
                plugin: self.status_of(&view, &checked.spec.name),
            }))
        }

        async fn list(
            &self,
            request: Request<pb::PluginListRequest>,
        ) -> Result<Response<pb::PluginListResponse>, Status> {
            let who = self.edge.admit(&request, AtLearner::Refused)?;
            self.edge.permit(&who, request.into_inner())?;
            self.edge.read_point(false).await?;
            let view = self.edge.replica.view();
            Ok(Response::new(pb::PluginListResponse {
                header: header::full(&*self.edge.replica, view.revision),
                plugins: view
                    .plugins
                    .iter()
                    .map(|it| self.status(&view, it))
                    .collect(),
            }))
        }

        async fn dead_letters(
            &self,
            request: Request<pb::PluginDeadLettersRequest>,
        ) -> Result<Response<pb::PluginDeadLettersResponse>, Status> {
            let who = self.edge.admit(&request, AtLearner::Refused)?;
            let request = self.edge.permit(&who, request.into_inner())?;
            self.edge.read_point(false).await?;
            let view = self.edge.replica.view();
            let plugin = view
                .plugins
                .get(&request.request().name)
                .ok_or_else(|| not_found(&Refusal::PluginNotFound))?;
            let letters = apply::dead_letters(&view, plugin).map_err(|_| {
                Status::internal("sealkv: the dead letters of this member cannot be read")
            })?;
            Ok(Response::new(pb::PluginDeadLettersResponse {
                header: header::full(&*self.edge.replica, view.revision),
                dead_letters: letters
                    .into_iter()
                    .map(|letter| pb::DeadLetter {
                        revision: letter.revision,
                        sub_revision: letter.sub,
                        key: letter.key,
                        error: letter.error,
                        attempts: letter.attempts,
                        recorded_ms: letter.recorded_ms,
                    })
                    .collect(),
            }))
        }

        async fn pause(
            &self,
            request: Request<pb::PluginPauseRequest>,
        ) -> Result<Response<pb::PluginPauseResponse>, Status> {
            let name = request.get_ref().name.clone();
            let changed = self.set_state(&request, name, PluginState::Paused);
            let (view, plugin) = changed.await?;
            let header = header::full(&*self.edge.replica, view.revision);
            Ok(Response::new(pb::PluginPauseResponse { header, plugin }))
        }

        async fn resume(
            &self,
            request: Request<pb::PluginResumeRequest>,
        ) -> Result<Response<pb::PluginResumeResponse>, Status> {
            let name = request.get_ref().name.clone();
            let changed = self.set_state(&request, name, PluginState::Running);
            let (view, plugin) = changed.await?;
            let header = header::full(&*self.edge.replica, view.revision);
            Ok(Response::new(pb::PluginResumeResponse { header, plugin }))
        }

        async fn delete(
            &self,
            request: Request<pb::PluginDeleteRequest>,
        ) -> Result<Response<pb::PluginDeleteResponse>, Status> {
            let who = self.edge.admit(&request, AtLearner::Refused)?;
            let name = request.into_inner().name;
            let delete = self.edge.permit(&who, DeletePlugin { name })?;
            let same = |_: &ReadView, delete: &DeletePlugin| Ok(delete.clone());
            let ((), view) = self.edge.write::<_, DeletePlugin>(&delete, same).await?;
            let header = header::full(&*self.edge.replica, view.revision);
            Ok(Response::new(pb::PluginDeleteResponse { header }))
        }
    }

    /// The manifest, then the component.
    async fn receive(mut parts: Streaming<pb::PluginDeployRequest>) -> Result<Upload, Status> {
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(Part::Manifest(manifest)) = first else {
            return Err(Status::invalid_argument(
                "sealkv: a deployment begins with the manifest",
            ));
        };
        let mut upload = Upload {
            name: manifest.name,
            watch_prefixes: manifest.watch_prefixes,
            write_prefixes: manifest.write_prefixes,
            settings_json: manifest.settings_json,
            prev_kv: manifest.prev_kv,
            start_at_snapshot: manifest.start_at_snapshot,
            sha256: manifest.sha256,
            component: Vec::new(),
        };
        while let Some(message) = parts.message().await? {
            let Some(Part::Chunk(chunk)) = message.part else {
                return Err(Status::invalid_argument(
                    "sealkv: after the manifest of a deployment only the component follows",
                ));
            };
            upload.push(&chunk)?;
        }
        Ok(upload)
    }

    fn not_found(refusal: &Refusal) -> Status {
        Status::not_found(format!("sealkv: {refusal}"))
    }

    impl From<DeployError> for Status {
        fn from(error: DeployError) -> Self {
            let text = format!("sealkv: {error}");
            match error {
                DeployError::Empty
                | DeployError::TooLarge
                | DeployError::Component(_)
                | DeployError::Manifest(_)
                | DeployError::Settings(_) => Status::invalid_argument(text),
                DeployError::Host(_) => Status::internal(text),
                DeployError::Stopping => Status::unavailable(text),
            }
        }
    }
}

#[cfg(not(feature = "plugins"))]
mod service {
    use proto::sealkv::v1 as pb;
    use proto::sealkv::v1::plugins_server::Plugins;
    use tonic::{Request, Response, Status, Streaming};

    /// The Plugins service of a member that was built without them.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct PluginsService;

    fn unimplemented() -> Status {
        Status::unimplemented("sealkv: this server was built without plugins")
    }

    #[tonic::async_trait]
    impl Plugins for PluginsService {
        async fn deploy(
            &self,
            _: Request<Streaming<pb::PluginDeployRequest>>,
        ) -> Result<Response<pb::PluginDeployResponse>, Status> {
            Err(unimplemented())
        }

        async fn list(
            &self,
            _: Request<pb::PluginListRequest>,
        ) -> Result<Response<pb::PluginListResponse>, Status> {
            Err(unimplemented())
        }

        async fn dead_letters(
            &self,
            _: Request<pb::PluginDeadLettersRequest>,
        ) -> Result<Response<pb::PluginDeadLettersResponse>, Status> {
            Err(unimplemented())
        }

        async fn pause(
            &self,
            _: Request<pb::PluginPauseRequest>,
        ) -> Result<Response<pb::PluginPauseResponse>, Status> {
            Err(unimplemented())
        }

        async fn resume(
            &self,
            _: Request<pb::PluginResumeRequest>,
        ) -> Result<Response<pb::PluginResumeResponse>, Status> {
            Err(unimplemented())
        }

        async fn delete(
            &self,
            _: Request<pb::PluginDeleteRequest>,
        ) -> Result<Response<pb::PluginDeleteResponse>, Status> {
            Err(unimplemented())
        }
    }
}

pub use service::PluginsService;

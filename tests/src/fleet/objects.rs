//! Objects of the API server by the hundred.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use hyper::Request as Asked;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Config};
use netlink::testbed::Netns;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use super::FleetError;

/// Requests on their way at once.
const AT_ONCE: usize = 16;

/// Asks the API server, from its own namespace. Kinds are given by the path of their collection:
/// `/api/v1/namespaces/default/pods`.
pub struct Objects {
    runtime: Runtime,
    client: Client,
}

impl Objects {
    pub(super) fn connect(server: &Netns, kubeconfig: &Path) -> Result<Self, FleetError> {
        let failed = |error| FleetError::system("starting threads for a client", error);
        // Its threads stay in the namespace in which they are started.
        let runtime = server.run(|| Builder::new_multi_thread().worker_threads(2).enable_all().build())?;
        let runtime = runtime.map_err(failed)?;
        let read = Kubeconfig::read_from(kubeconfig).map_err(|error| FleetError::shape("the kubeconfig", error))?;
        let config = async move {
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            config.map_err(|error| FleetError::shape("the kubeconfig", error))
        };
        let config = run(&runtime, config)?;
        let client = run(&runtime, async move { Client::try_from(config) });
        let client = client.map_err(|source| api("making a client", source))?;
        Ok(Self { runtime, client })
    }

    /// Makes one; as it then stands.
    pub fn create(&self, kind: &str, object: &Value) -> Result<Value, FleetError> {
        let made = self.create_all(kind, std::slice::from_ref(object))?;
        made.into_iter().next().ok_or_else(|| FleetError::shape("the answer", "nothing"))
    }

    /// Makes them all, many at a time; as they then stand, in their order.
    pub fn create_all(&self, kind: &str, objects: &[Value]) -> Result<Vec<Value>, FleetError> {
        let requests = objects.iter().map(|object| {
            let request = Request::new(kind).create(&PostParams::default(), object.to_string().into_bytes());
            request.map_err(|error| FleetError::shape(format!("making an object in {kind}"), error))
        });
        self.ask_all(&format!("making objects in {kind}"), requests.collect::<Result<_, _>>()?)
    }

    /// One object.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value, FleetError> {
        let request = Request::new(kind).get(name, &kube::api::GetParams::default());
        self.ask(&format!("reading {kind}/{name}"), request)
    }

    /// All objects of a kind.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>, FleetError> {
        self.list_by(kind, &ListParams::default())
    }

    /// The objects of which a field has that value: `spec.pool=p`.
    pub fn list_where(&self, kind: &str, field: &str) -> Result<Vec<Value>, FleetError> {
        self.list_by(kind, &ListParams::default().fields(field))
    }

    fn list_by(&self, kind: &str, parameters: &ListParams) -> Result<Vec<Value>, FleetError> {
        let list = self.ask(&format!("listing {kind}"), Request::new(kind).list(parameters))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Deletes one at once, as a kubelet does when nothing of a pod is left. One that is not there is no error: the answer
    /// of an earlier request may have been lost.
    pub fn delete(&self, kind: &str, name: &str) -> Result<(), FleetError> {
        let request = Request::new(kind).delete(name, &DeleteParams::default().grace_period(0));
        match self.ask(&format!("deleting {kind}/{name}"), request) {
            Err(FleetError::Api { source, .. }) if is_not_found(&source) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Deletes those with that label at once: `app=web`.
    pub fn delete_labelled(&self, kind: &str, label: &str) -> Result<(), FleetError> {
        let now = DeleteParams::default().grace_period(0);
        let request = Request::new(kind).delete_collection(&now, &ListParams::default().labels(label));
        self.ask(&format!("deleting {kind} with {label}"), request).map(drop)
    }

    /// Changes the status of one by a merge patch.
    pub fn patch_status(&self, kind: &str, name: &str, change: &Value) -> Result<(), FleetError> {
        let patch = Patch::Merge(change);
        let request = Request::new(kind).patch_subresource("status", name, &PatchParams::default(), &patch);
        self.ask(&format!("changing {kind}/{name}/status"), request).map(drop)
    }

    fn ask(&self, what: &str, request: Result<Asked<Vec<u8>>, impl ToString>) -> Result<Value, FleetError> {
        let request = request.map_err(|error| FleetError::shape(what, error))?;
        let client = self.client.clone();
        run(&self.runtime, async move { client.request(request).await }).map_err(|source| api(what, source))
    }

    fn ask_all(&self, what: &str, requests: Vec<Asked<Vec<u8>>>) -> Result<Vec<Value>, FleetError> {
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        let asked: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let (client, gate) = (self.client.clone(), Arc::clone(&gate));
                self.runtime.spawn(async move {
                    // Nobody closes it.
                    let _turn = gate.acquire().await;
                    client.request(request).await
                })
            })
            .collect();
        let answers = run(&self.runtime, async move {
            let mut answers = Vec::with_capacity(asked.len());
            for asked in asked {
                answers.push(asked.await);
            }
            answers
        });
        answers
            .into_iter()
            .map(|answer| match answer {
                Ok(answer) => answer.map_err(|source| api(what, source)),
                Err(error) => Err(FleetError::shape(what, error)),
            })
            .collect()
    }
}

/// In a thread of the runtime's, since sockets belong to the namespace of the thread that opens them.
fn run<T: Send + 'static>(runtime: &Runtime, task: impl Future<Output = T> + Send + 'static) -> T {
    let joined = runtime.block_on(runtime.spawn(task));
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn api(what: &str, source: kube::Error) -> FleetError {
    FleetError::Api { what: what.to_owned(), source: Box::new(source) }
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

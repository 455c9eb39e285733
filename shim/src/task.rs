//! containerd's task service, version 2: requests in, answers out; what they mean is [`crate::pod`]'s.

use std::sync::Arc;
use std::time::Duration;

use containerd_shim::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::types::task::ProcessInfo;
use containerd_shim::synchronous::ExitSignal;
use containerd_shim::util::convert_to_any;
use containerd_shim::{Error, Task, TtrpcContext};
use log::debug;

use crate::pod::Pod;
use crate::streams::Paths;
use crate::{stats, timestamp};

type Answer<T> = containerd_shim::protos::ttrpc::Result<T>;

/// What containerd may take at the end to hear of the last events.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// The service.
pub struct Tasks {
    pub pod: Arc<Pod>,
    pub exit: Arc<ExitSignal>,
}

impl Task for Tasks {
    fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        debug!("create {}", request.id);
        if !request.checkpoint.is_empty() {
            return Err(Error::Unimplemented("checkpoint".to_owned()).into());
        }
        let pid = self.pod.create(&request)?;
        Ok(CreateTaskResponse {
            pid,
            ..CreateTaskResponse::default()
        })
    }

    fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        debug!("start {} {}", request.id, request.exec_id);
        let pid = self.pod.start(&request.id, &request.exec_id)?;
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Answer<Empty> {
        debug!("exec {} {}", request.id, request.exec_id);
        let spec = serde_json::from_slice(&request.spec().value);
        let spec = spec.map_err(|e| Error::InvalidArgument(format!("the process: {e}")))?;
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Paths::default()
        };
        self.pod.exec(&request.id, &request.exec_id, spec, paths)?;
        Ok(Empty::default())
    }

    fn state(&self, _: &TtrpcContext, request: StateRequest) -> Answer<StateResponse> {
        let told = self.pod.state(&request.id, &request.exec_id)?;
        Ok(StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: told.bundle,
            pid: told.pid,
            status: told.state.into(),
            stdin: told.paths.stdin,
            stdout: told.paths.stdout,
            stderr: told.paths.stderr,
            terminal: told.paths.terminal,
            exit_status: told.ended.map_or(0, |ended| ended.status),
            exited_at: match told.ended {
                Some(ended) => timestamp(ended.at),
                None => MessageField::none(),
            },
            ..StateResponse::default()
        })
    }

    fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        let ended = self.pod.wait(&request.id, &request.exec_id)?;
        Ok(WaitResponse {
            exit_status: ended.status,
            exited_at: timestamp(ended.at),
            ..WaitResponse::default()
        })
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Answer<Empty> {
        debug!("kill {} {} {}", request.id, request.exec_id, request.signal);
        let (id, exec) = (&request.id, &request.exec_id);
        self.pod.kill(id, exec, request.signal, request.all)?;
        Ok(Empty::default())
    }

    fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<DeleteResponse> {
        debug!("delete {} {}", request.id, request.exec_id);
        let (pid, ended) = self.pod.delete(&request.id, &request.exec_id)?;
        Ok(DeleteResponse {
            pid,
            exit_status: ended.status,
            exited_at: timestamp(ended.at),
            ..DeleteResponse::default()
        })
    }

    fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Answer<PidsResponse> {
        let pids = self.pod.pids(&request.id)?.into_iter();
        let processes = pids.map(|pid| ProcessInfo {
            pid,
            ..ProcessInfo::default()
        });
        Ok(PidsResponse {
            processes: processes.collect(),
            ..PidsResponse::default()
        })
    }

    fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Answer<StatsResponse> {
        let stats = stats::metrics(&self.pod.stats(&request.id)?);
        Ok(StatsResponse {
            stats: Some(convert_to_any(Box::new(stats))?).into(),
            ..StatsResponse::default()
        })
    }

    fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Answer<Empty> {
        self.pod.pause(&request.id, true)?;
        Ok(Empty::default())
    }

    fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Answer<Empty> {
        self.pod.pause(&request.id, false)?;
        Ok(Empty::default())
    }

    fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Answer<Empty> {
        let (id, exec) = (&request.id, &request.exec_id);
        self.pod.resize(id, exec, request.width, request.height)?;
        Ok(Empty::default())
    }

    fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Answer<Empty> {
        if request.stdin {
            self.pod.close_input(&request.id, &request.exec_id)?;
        }
        Ok(Empty::default())
    }

    /// Left out, it would be answered as by a task that has ended, which CRI takes for success.
    fn update(&self, _: &TtrpcContext, _: UpdateTaskRequest) -> Answer<Empty> {
        let message = "update: what a running VM has can't be changed";
        Err(Error::Unimplemented(message.to_owned()).into())
    }

    fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Answer<Empty> {
        Err(Error::Unimplemented("checkpoint".to_owned()).into())
    }

    fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Answer<ConnectResponse> {
        let told = self.pod.state(&request.id, "");
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: told.map_or(0, |told| told.pid),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Answer<Empty> {
        if self.pod.is_empty() {
            debug!("shutdown");
            self.pod.flush(LAST_EVENTS);
            self.exit.signal();
        }
        Ok(Empty::default())
    }
}

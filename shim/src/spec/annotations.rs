//! What a specification says of the virtual machine: its size, and whose it is.

use std::collections::HashMap;

use motevm::config::{CpuList, MAX_CPUS, Size};
use oci_spec::runtime::Spec;

use super::SpecError;
use super::resources::{PERIOD, positive};

type Annotations = Option<HashMap<String, String>>;

/// The pod's sandbox.
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// The user's word on the size.
pub const MEMORY: &str = "io.mote.memory";
const VCPUS: &str = "io.mote.vcpus";

/// A processor's worth of shares.
const SHARES: u64 = 1024;

/// The sandbox whose pod the container is in.
pub fn sandbox_id(annotations: &Annotations) -> Option<&str> {
    text(annotations, SANDBOX)
}

/// The memory in bytes and the processors that a virtual machine is to have for this container: by mote's annotations,
/// else by those that containerd gives a sandbox of its pod's resources, else by the container's own limits.
///
/// # Errors
///
/// One of mote's annotations is wrong.
pub fn sizing(spec: &Spec) -> Result<(Option<u64>, Option<u32>), SpecError> {
    let annotations = spec.annotations();
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    let memory = memory.and_then(|memory| memory.limit().and_then(positive));
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let own = cpu.and_then(|cpu| {
        let time = processors(cpu.quota(), cpu.period());
        let listed = cpu.cpus().as_deref().and_then(count);
        time.into_iter().chain(listed).min()
    });
    let shares = cpu.and_then(|cpu| cpu.shares()).and_then(by_shares);
    Ok((
        asked_memory(annotations)?
            .or_else(|| number(annotations, "io.kubernetes.cri.sandbox-memory").and_then(positive))
            .or(memory),
        asked_vcpus(annotations)?
            .or_else(|| pod_processors(annotations))
            .or(own)
            .or(shares),
    ))
}

fn text<'a>(annotations: &'a Annotations, name: &str) -> Option<&'a str> {
    let text = annotations.as_ref()?.get(name)?;
    Some(text.as_str()).filter(|text| !text.is_empty())
}

fn number(annotations: &Annotations, name: &str) -> Option<i64> {
    text(annotations, name)?.parse().ok()
}

fn asked_memory(annotations: &Annotations) -> Result<Option<u64>, SpecError> {
    let Some(asked) = text(annotations, MEMORY) else {
        return Ok(None);
    };
    let wrong = |what: String| SpecError::wrong(format!("annotations.{MEMORY}"), what);
    let size: Size = asked.parse().map_err(wrong)?;
    match size.bytes() {
        0 => Err(wrong("must be more than 0".to_owned())),
        bytes => Ok(Some(bytes)),
    }
}

fn asked_vcpus(annotations: &Annotations) -> Result<Option<u32>, SpecError> {
    let Some(asked) = text(annotations, VCPUS) else {
        return Ok(None);
    };
    match asked.parse() {
        Ok(number) if (1..=u32::from(MAX_CPUS)).contains(&number) => Ok(Some(number)),
        _ => {
            let what = format!("`{asked}`: a VM has 1 to {MAX_CPUS} vCPUs");
            Err(SpecError::wrong(format!("annotations.{VCPUS}"), what))
        }
    }
}

/// By the limit of all containers of the pod, else by what they request.
fn pod_processors(annotations: &Annotations) -> Option<u32> {
    let of = |name: &str| {
        number(
            annotations,
            &format!("io.kubernetes.cri.sandbox-cpu-{name}"),
        )
    };
    let period = of("period").and_then(positive);
    let shares = of("shares").and_then(positive);
    processors(of("quota"), period).or_else(|| shares.and_then(by_shares))
}

/// As many as it takes to use that much time.
fn processors(quota: Option<i64>, period: Option<u64>) -> Option<u32> {
    let quota = quota.and_then(positive)?;
    let period = period.filter(|period| *period > 0).unwrap_or(PERIOD);
    Some(most(quota.div_ceil(period)))
}

/// Shares ask for processors, and are no limit: less than two of them say nothing about how many there should be.
fn by_shares(shares: u64) -> Option<u32> {
    Some(shares.div_ceil(SHARES))
        .filter(|number| *number > 1)
        .map(most)
}

fn most(number: u64) -> u32 {
    number.min(u64::from(MAX_CPUS)) as u32
}

/// How many there are in a list.
fn count(cpus: &str) -> Option<u32> {
    let list: CpuList = cpus.parse().ok()?;
    Some(most(list.len() as u64)).filter(|number| *number > 0)
}

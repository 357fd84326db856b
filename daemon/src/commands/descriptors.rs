//! Open files: a connection is one, and most systems begin with 1024 a process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// What is open beside the connections: the log, the state, sinks, sockets.
const OTHERS: usize = 128;

/// Takes as many as the system allows, and says so where that is too few for `connections`.
pub(super) fn raise(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, all) {
            debug!("the number of open files cannot be raised: {error}");
        }
    }
    let Some(allowed) = getrlimit(Resource::Nofile).current else { return };
    let wanted = (connections + OTHERS) as u64;
    if allowed < wanted {
        warn!(
            "limits.max-connections is {connections}, but this process may have only {allowed} open \
             files; raise its limit to {wanted} (systemd: LimitNOFILE=), or lower max-connections"
        );
    }
}

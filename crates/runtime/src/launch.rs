//! The main VM of a program: what it is started with, and its run until it waits for requests.

use std::time::Instant;

use sandbox::gdb::Debugging;
use sandbox::{BootConfig, Exit, Fault, MainVm, RequestLimits};

use crate::hypercalls::{Desk, EntryPoints, MemoryLimits, Scene, Stage};
use crate::instance::StartError;
use crate::recipe::Recipe;
use crate::storage::{Founding, Storage};

/// What a main VM becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The image of request VMs.
    Request,
    /// The storage VM.
    Storage,
}

pub(crate) fn memory_limits(config: &BootConfig) -> MemoryLimits {
    MemoryLimits {
        address_space: config.address_space,
        max_memory: config.max_memory,
        max_request_memory: config.request.memory,
    }
}

/// Arguments and environment as upstream's programs expect them.
pub(crate) fn boot_config(recipe: &Recipe, role: Role) -> BootConfig {
    let mut args = vec![recipe.name.clone().into_bytes()];
    args.extend(recipe.main_arguments.iter().cloned());
    let mut env: Vec<Vec<u8>> = ["LC_TYPE=C", "LC_ALL=C", "USER=root"]
        .iter()
        .map(|v| v.as_bytes().to_vec())
        .collect();
    env.extend(recipe.environment.iter().cloned());
    env.push(format!("KVM_NAME={}", recipe.name).into_bytes());
    env.push(format!("KVM_GROUP={}", recipe.group).into_bytes());
    let kind = match role {
        Role::Request => "KVM_TYPE=request",
        Role::Storage => "KVM_TYPE=storage",
    };
    let debug = match recipe.debugging.at_breakpoints {
        true => "KVM_DEBUG=1",
        false => "KVM_DEBUG=0",
    };
    for fixed in [kind, "KVM_STATE=state", debug] {
        env.push(fixed.as_bytes().to_vec());
    }
    BootConfig {
        name: recipe.name.clone(),
        args,
        env,
        max_memory: recipe.max_memory,
        address_space: recipe.address_space.max(recipe.max_memory),
        executable: recipe.executable.clone(),
        // The storage VM has an image of its own.
        shared_memory: match role {
            Role::Request => recipe.shared_memory,
            Role::Storage => 0,
        },
        regions: recipe.regions.clone(),
        large_pages: recipe.large_pages,
        request: RequestLimits {
            memory: recipe.max_request_memory,
            keep: recipe.keep_memory,
        },
        executable_heap: recipe.executable_heap,
        paths: recipe.paths.clone(),
        cwd: recipe.current_working_directory.clone(),
        debugging: Debugging {
            at_start: recipe.debugging.at_start && role == Role::Request,
            ..recipe.debugging
        },
    }
}

/// Runs `main()` until the program waits for requests.
pub(crate) fn run_main(
    main: &mut MainVm,
    recipe: &Recipe,
    limits: &MemoryLimits,
    founding: Option<&mut Founding>,
    storage: Option<&Storage>,
) -> Result<(EntryPoints, Desk), StartError> {
    let mut entry = EntryPoints::deciding(recipe.control_ephemeral);
    let mut desk = Desk {
        voice: recipe.voice,
        program: recipe.name.as_str().into(),
        allowed_fetch: recipe.allowed_fetch.clone().into(),
        ..Desk::default()
    };
    let stage = Stage::Boot {
        program: &recipe.name,
        entry: &mut entry,
        founding,
    };
    let mut scene = Scene {
        stage,
        desk: &mut desk,
        limits,
        storage,
    };
    let exit = main
        .run(Instant::now() + recipe.max_boot_time, &mut scene)
        .map_err(|fault| StartError::Main {
            told: match &fault {
                Fault::TimedOut => format!("{fault} (max_boot_time, {:?})", recipe.max_boot_time),
                Fault::OutOfMemory { .. } => format!("{fault} (max_memory)"),
                _ => main.describe(&fault),
            },
            fault,
        })?;
    match (exit, entry.waiting()) {
        (Exit::Stopped(_), Some(_)) => Ok((entry, desk)),
        _ => Err(StartError::DidNotWait),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_environment_come_in_upstreams_order() {
        let recipe = Recipe {
            group: "g".to_owned(),
            main_arguments: vec![b"--one".to_vec()],
            environment: vec![b"X=1".to_vec()],
            max_memory: 512 << 20,
            ..Recipe::new("p")
        };
        let config = boot_config(&recipe, Role::Request);
        assert_eq!(config.args, [b"p".to_vec(), b"--one".to_vec()]);
        let expected = [
            "LC_TYPE=C",
            "LC_ALL=C",
            "USER=root",
            "X=1",
            "KVM_NAME=p",
            "KVM_GROUP=g",
            "KVM_TYPE=request",
            "KVM_STATE=state",
            "KVM_DEBUG=0",
        ];
        assert_eq!(config.env, expected.map(|v| v.as_bytes().to_vec()));
        assert!(config.address_space >= config.max_memory);
    }
}

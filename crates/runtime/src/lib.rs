//! Programs: configuration, life cycle, pools of request VMs, hypercalls, registry.

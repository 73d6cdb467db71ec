"""Many runs side by side: grids, pairs of tasks, studies."""

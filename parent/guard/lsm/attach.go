package lsm

import "fmt"

// maxDepth is MAX_DEPTH of bpf/lsmguard/governed.h.
const maxDepth = 32

// Level is how deep a cgroup lies that is outside of Options.CgroupPath, for Agent.Level.
func (g *Guard) Level(path string) (uint32, error) {
	var agents uint32
	g.mu.Lock()
	err := g.level.Get(&agents)
	g.mu.Unlock()
	if err != nil {
		return 0, explain("file guard: reading the state", err)
	}
	_, own, _, err := locate(g.options.CgroupPath)
	if err != nil {
		return 0, err
	}
	_, depth, _, err := locate(path)
	if err != nil {
		return 0, err
	}
	level := int(agents) - 1 - own + depth
	if level < 1 || level >= maxDepth {
		return 0, fmt.Errorf("file guard: cgroup %s: it lies %d deep: 1 to %d can be held", path, level, maxDepth-1)
	}
	return uint32(level), nil
}

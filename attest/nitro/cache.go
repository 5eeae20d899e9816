package nitro

import (
	"container/list"
	"crypto/sha256"
	"sync"
)

// maxChains bounds the cache, at about 20 KiB a chain. Only accepted documents add to it.
const maxChains = 256

// chainCache keeps the chains that were used last. It knows them by the exact bytes of all their certificates and holds
// only facts that time does not change.
type chainCache struct {
	limit int

	mu     sync.Mutex
	chains map[[sha256.Size]byte]*list.Element
	recent list.List // of *chain, the last used first
}

func newChainCache(limit int) *chainCache {
	return &chainCache{limit: limit, chains: make(map[[sha256.Size]byte]*list.Element)}
}

// get returns nil for an unknown chain.
func (c *chainCache) get(key [sha256.Size]byte) *chain {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.chains[key]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*chain)
}

func (c *chainCache) add(added *chain) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chains[added.key] != nil {
		return
	}
	c.chains[added.key] = c.recent.PushFront(added)
	if c.recent.Len() > c.limit {
		oldest := c.recent.Remove(c.recent.Back()).(*chain)
		delete(c.chains, oldest.key)
	}
}

package visa

import "github.com/raypher/raypher/internal/cborscan"

// encode writes claims that were checked. It is what a general encoder makes of the struct, by hand because every visa goes
// through here; the test beside it compares the two.
func (c *Claims) encode() []byte {
	o := make(cborscan.Output, 0, 1024)
	pairs := uint64(15)
	for _, there := range []bool{c.Audience != "", len(c.Nonce) > 0, len(c.Handle) > 0, c.Budget > 0} {
		if there {
			pairs++
		}
	}
	o.Map(pairs)
	o.Uint(1)
	o.Text(c.Issuer)
	o.Uint(2)
	o.Text(c.Subject)
	if c.Audience != "" {
		o.Uint(3)
		o.Text(c.Audience)
	}
	for i, at := range []int64{c.ExpiresAt, c.NotBefore, c.IssuedAt} {
		o.Uint(uint64(4 + i))
		o.Int(at)
	}
	o.Uint(7)
	o.Bytes(c.ID)
	o.Uint(8)
	o.Map(1)
	o.Uint(1)
	o.Raw(c.Confirmation.Key)
	if len(c.Nonce) > 0 {
		o.Uint(10)
		o.Bytes(c.Nonce)
	}
	for i, hash := range [][]byte{c.PolicyHash, c.PermitHash, c.ConfigurationHash} {
		o.Int(int64(-70001 - i))
		o.Bytes(hash)
	}
	o.Int(-70004)
	o.Array(2)
	o.Uint(c.Ceiling.Version)
	o.Bytes(c.Ceiling.Hash)
	o.Int(-70005)
	o.Text(c.Tier)
	o.Int(-70006)
	o.Bytes(c.Epoch)
	o.Int(-70007)
	o.Text(c.Namespace)
	o.Int(-70008)
	c.Asserted.appendTo(&o)
	if len(c.Handle) > 0 {
		o.Int(-70009)
		o.Bytes(c.Handle)
	}
	if c.Budget > 0 {
		o.Int(-70010)
		o.Uint(c.Budget)
	}
	return o
}

func (a *Asserted) appendTo(o *cborscan.Output) {
	pairs := uint64(6)
	if len(a.BinarySHA256) > 0 {
		pairs++
	}
	if a.Cgroup != "" {
		pairs++
	}
	o.Map(pairs)
	o.Uint(1)
	o.Text(a.AgentID)
	o.Uint(2)
	o.Uint(uint64(a.UID))
	o.Uint(3)
	o.Text(a.User)
	o.Uint(4)
	o.Int(int64(a.PID))
	if len(a.BinarySHA256) > 0 {
		o.Uint(5)
		o.Bytes(a.BinarySHA256)
	}
	o.Uint(6)
	o.Text(a.Backend)
	o.Uint(7)
	o.Text(a.Host)
	if a.Cgroup != "" {
		o.Uint(8)
		o.Text(a.Cgroup)
	}
}

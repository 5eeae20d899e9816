package netguard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/raypher/raypher/bpf"
)

// sweepEvery is how often what the kernel folded is collected.
const sweepEvery = time.Second

// Run calls report for each event until ctx ends; one Run at a time. report is called from one goroutine and should not
// block: the ring buffer holds some 4,000 events meanwhile, and what does not fit comes later, folded.
func (g *Guard) Run(ctx context.Context, report func(Event)) error {
	r, err := ringbuf.NewReader(g.maps.Events)
	if err != nil {
		return explain("network guard: opening the events", err)
	}
	defer r.Close()
	g.drains.Open(r)
	defer g.drains.Close()
	defer context.AfterFunc(ctx, func() { r.Close() })()
	next := time.Now().Add(sweepEvery)
	var record ringbuf.Record
	for {
		r.SetDeadline(next)
		err := r.ReadInto(&record)
		switch {
		case err == nil:
			if e, ok := decodeEvent(record.RawSample); ok {
				e.Name = g.nameOf(e.CgroupID, e.Destination.Addr())
				report(e)
			}
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case errors.Is(err, ringbuf.ErrFlushed):
			if err := g.sweepFloods(report); err != nil { // Disarm forgets the count
				return err
			}
			g.drains.Flushed()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return explain("network guard: reading events", err)
		}
		if now := time.Now(); !now.Before(next) {
			if err := g.sweep(report); err != nil {
				return err
			}
			next = now.Add(sweepEvery)
		}
	}
}

// Drain waits until Run has reported what was refused before the call, but for what is folded still, or until ctx ends. Without a Run it
// does nothing.
func (g *Guard) Drain(ctx context.Context) error {
	return explain("network guard", g.drains.Wait(ctx))
}

// sweep reports what the kernel folded since the last one, and forgets what is quiet.
func (g *Guard) sweep(report func(Event)) error {
	var key bpf.NetguardFoldKey
	var f bpf.NetguardFold
	var old []bpf.NetguardFoldKey
	now := uint64(bootTime())
	it := g.maps.Folds.Iterate()
	for it.Next(&key, &f) {
		if now-f.Start >= uint64(sweepEvery) {
			old = append(old, key)
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return explain("network guard: collecting folded events", err)
	}
	for _, key := range old {
		if err := g.maps.Folds.LookupAndDelete(key, &f); err != nil {
			continue
		}
		if f.Folded > 0 {
			e := newEvent(key, f.Start, f.Folded, f.Pid, f.Error, f.Comm)
			e.Name = g.nameOf(e.CgroupID, e.Destination.Addr())
			report(e)
		}
	}
	return g.sweepFloods(report)
}

// sweepFloods reports the refusals of each agent that went beyond the rate of single events.
func (g *Guard) sweepFloods(report func(Event)) error {
	var id uint64
	var c bpf.NetguardCounters
	it := g.maps.Counts.Iterate()
	for it.Next(&id, &c) {
		n, err := g.untold(id)
		if err != nil {
			return err
		}
		if n > 0 {
			report(Event{Time: time.Now(), CgroupID: id, Operation: "connect", Layer: "cgroup", Reason: Flood, Count: clamp(n)})
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return explain("network guard: reading counters", err)
	}
	return nil
}

// untold returns how much of an agent's flood was not told yet, and takes it for told. Count and note are read together: Disarm takes both
// away, and a count from before with no note of what was told of it would be told a second time.
func (g *Guard) untold(id uint64) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var c bpf.NetguardCounters
	var told uint64
	switch err := g.maps.Counts.Lookup(id, &c); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return 0, nil
	case err != nil:
		return 0, explain("network guard: reading counters", err)
	}
	if err := g.maps.Reported.Lookup(id, &told); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, explain("network guard: reading counters", err)
	}
	if c.Suppressed == told {
		return 0, nil
	}
	if err := g.maps.Reported.Put(id, c.Suppressed); err != nil {
		return 0, explain("network guard: counting a flood", err)
	}
	return c.Suppressed - told, nil
}

// Statistics returns the totals of the guard.
func (g *Guard) Statistics() (Statistics, error) {
	var s Statistics
	for stat, to := range map[bpf.NetguardStatistic]*uint64{
		bpf.NetguardStatisticSTAT_EVENTS: &s.Events,
		bpf.NetguardStatisticSTAT_FOLDED: &s.Folded,
		bpf.NetguardStatisticSTAT_LOST:   &s.Lost,
	} {
		if err := g.maps.Statistics.Lookup(stat, to); err != nil {
			return Statistics{}, explain("network guard: reading statistics", err)
		}
	}
	return s, nil
}

// decodeEvent reads one record of the ring buffer; false: it has another length, so another version of the guard made it.
func decodeEvent(raw []byte) (Event, bool) {
	var e bpf.NetguardEvent
	if len(raw) < binary.Size(e) {
		return Event{}, false
	}
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, &e); err != nil {
		return Event{}, false
	}
	event := newEvent(e.What, e.Time, e.Count, e.Pid, e.Error, e.Comm)
	event.Path = unixPath(e.Path[:], int(e.PathLength))
	return event, true
}

func newEvent(key bpf.NetguardFoldKey, boot, count uint64, pid uint32, errno int32, comm [16]int8) Event {
	return Event{
		Time:        time.Now().Add(time.Duration(int64(boot) - bootTime())),
		CgroupID:    key.Cgroup,
		PID:         pid,
		Comm:        text(comm[:]),
		Operation:   operations[key.Operation],
		Layer:       layers[key.Layer],
		Protocol:    protocol(key.Flow),
		Destination: netip.AddrPortFrom(addressOf(key.Flow.Addr, key.Flow.Family), networkOrder(key.Flow.Port)),
		Reason:      Reason(key.Reason),
		Reserved:    key.Rule == uint32(bpf.NetguardRuleIdRULE_RESERVED_RANGE),
		Mode:        modeName(key.Mode),
		Errno:       errno,
		Count:       clamp(count),
	}
}

func clamp(n uint64) uint32 { return uint32(min(n, 1<<32-1)) }

// unixPath shows a sun_path: a file's path, or an abstract name with "@" in front (unix(7)).
func unixPath(c []int8, length int) string {
	b := make([]byte, min(length, len(c)))
	for i := range b {
		b[i] = byte(c[i])
	}
	if len(b) > 0 && b[0] == 0 {
		return "@" + string(b[1:])
	}
	path, _, _ := bytes.Cut(b, []byte{0})
	return string(path)
}

var operations = map[bpf.NetguardOperation]string{
	bpf.NetguardOperationOP_CONNECT:      "connect",
	bpf.NetguardOperationOP_SENDTO:       "sendto",
	bpf.NetguardOperationOP_SEND:         "send",
	bpf.NetguardOperationOP_BIND:         "bind",
	bpf.NetguardOperationOP_SOCKET:       "socket",
	bpf.NetguardOperationOP_CONNECT_UNIX: "connect-unix",
	bpf.NetguardOperationOP_SENDTO_UNIX:  "sendto-unix",
}

var layers = map[bpf.NetguardLayer]string{
	bpf.NetguardLayerLAYER_CONNECT4:     "cgroup/connect4",
	bpf.NetguardLayerLAYER_CONNECT6:     "cgroup/connect6",
	bpf.NetguardLayerLAYER_SENDMSG4:     "cgroup/sendmsg4",
	bpf.NetguardLayerLAYER_SENDMSG6:     "cgroup/sendmsg6",
	bpf.NetguardLayerLAYER_BIND4:        "cgroup/bind4",
	bpf.NetguardLayerLAYER_BIND6:        "cgroup/bind6",
	bpf.NetguardLayerLAYER_SOCK_CREATE:  "cgroup/sock_create",
	bpf.NetguardLayerLAYER_EGRESS:       "cgroup_skb/egress",
	bpf.NetguardLayerLAYER_CONNECT_UNIX: "cgroup/connect_unix",
	bpf.NetguardLayerLAYER_SENDMSG_UNIX: "cgroup/sendmsg_unix",
	bpf.NetguardLayerLAYER_XDP:          "xdp",
}

// protocol names the IANA number; others are their number. A unix socket's flow has no family.
func protocol(f bpf.NetguardFlow) string {
	if f.Family == 0 {
		return ""
	}
	switch f.Proto {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 58:
		return "icmp6"
	case 132:
		return "sctp"
	case 136:
		return "udplite"
	case 255:
		return "raw"
	}
	return strconv.Itoa(int(f.Proto))
}

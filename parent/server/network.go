package server

import (
	"context"
	"fmt"
	"os/user"
	"strconv"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/guard/net"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// CutNetwork severs an agent from the network.
func (s *operator) CutNetwork(ctx context.Context, r *parentv1.CutNetworkRequest) (*parentv1.NetworkCuts, error) {
	cut, err := netguard.ParseCut(r.GetCut().GetName(), r.GetCut().GetAddress(), r.GetCut().GetReject())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", agents.ErrInvalid, err)
	}
	who, err := personOf(ctx)
	if err != nil {
		return nil, err
	}
	cuts, err := s.server.options.Agents.CutNetwork(r.AgentId, cut, who)
	return networkCuts(cuts), err
}

// RestoreNetwork ends cuts.
func (s *operator) RestoreNetwork(ctx context.Context, r *parentv1.RestoreNetworkRequest) (*parentv1.NetworkCuts, error) {
	var cut *netguard.Cut
	if r.Cut != nil {
		parsed, err := netguard.ParseCut(r.Cut.Name, r.Cut.Address, false)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", agents.ErrInvalid, err)
		}
		cut = &parsed
	}
	who, err := personOf(ctx)
	if err != nil {
		return nil, err
	}
	cuts, err := s.server.options.Agents.RestoreNetwork(r.AgentId, cut, who)
	return networkCuts(cuts), err
}

// NetworkTraffic says what passed by the rules of agents.
func (s *operator) NetworkTraffic(_ context.Context, r *parentv1.NetworkTrafficRequest) (*parentv1.NetworkTrafficReply, error) {
	host := s.server.options.Agents
	if r.AgentId != "" {
		if _, err := host.Agent(r.AgentId); err != nil {
			return nil, err
		}
	}
	all, err := host.Traffic()
	if err != nil {
		return nil, err
	}
	reply := &parentv1.NetworkTrafficReply{}
	for _, a := range host.List() {
		if r.AgentId != "" && a.ID() != r.AgentId {
			continue
		}
		one := &parentv1.AgentTraffic{AgentId: a.ID(), Name: a.Status().Name, Subject: a.Subject(), Cuts: networkCuts(a.Cuts()).Cuts}
		one.Refused, one.Incoming = a.NetworkRefusals()
		for _, t := range all[a.ID()] {
			one.Rules = append(one.Rules, &parentv1.RuleTraffic{
				Rule: t.Rule, PacketsOut: t.PacketsOut, BytesOut: t.BytesOut, PacketsIn: t.PacketsIn, BytesIn: t.BytesIn,
				DroppedPackets: t.DroppedPackets, DroppedBytes: t.DroppedBytes,
			})
		}
		reply.Agents = append(reply.Agents, one)
	}
	return reply, nil
}

func networkCuts(cuts []agents.NetworkCut) *parentv1.NetworkCuts {
	all := &parentv1.NetworkCuts{}
	for _, c := range cuts {
		one := &parentv1.NetworkCut{Name: c.Name, Reject: c.Reject, User: c.By, AtUnix: c.At.Unix()}
		if c.Address.IsValid() {
			one.Address = c.Cut.String()
		}
		all.Cuts = append(all.Cuts, one)
	}
	return all
}

// personOf is who the kernel says is at the other end.
func personOf(ctx context.Context) (journal.Person, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return journal.Person{}, err
	}
	who := journal.Person{UID: c.uid, User: strconv.Itoa(int(c.uid)), PID: uint32(c.task.PID())}
	if account, err := user.LookupId(who.User); err == nil {
		who.User = account.Username
	}
	return who, nil
}

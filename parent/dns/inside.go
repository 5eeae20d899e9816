package dns

import (
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

// Inside answers at sockets that lie in the network namespace of one agent: whoever asks there is that agent, which agent names as it is
// at each question. The sockets are closed when stop returns.
func (s *Server) Inside(datagrams []net.PacketConn, streams []net.Listener, agent func() (Agent, bool)) (stop func()) {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		a, ok := agent()
		s.handleOf(w, r, a, ok)
	})
	var servers []*dns.Server
	for _, d := range datagrams {
		servers = append(servers, &dns.Server{PacketConn: d, UDPSize: dns.DefaultMsgSize, Handler: handler})
	}
	for _, l := range streams {
		servers = append(servers, &dns.Server{Listener: netutil.LimitListener(l, maxConnections), Handler: handler})
	}
	var running sync.WaitGroup
	for _, d := range servers {
		d.ReadTimeout, d.WriteTimeout = 5*time.Second, 5*time.Second
		d.IdleTimeout = func() time.Duration { return 10 * time.Second }
		running.Go(func() { _ = d.ActivateAndServe() }) // it ends when its socket is closed
	}
	return func() {
		shut(servers)
		running.Wait()
	}
}

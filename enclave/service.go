package enclave

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/spending"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Describe implements the service.
func (s *Server) Describe(context.Context, *enclavev1.DescribeRequest) (*enclavev1.Description, error) {
	d := &enclavev1.Description{
		Tier:              s.opts.Signer.Tier(),
		TrustDomain:       s.opts.Configuration.TrustDomain,
		PublicKey:         s.key.PKIX(),
		Epoch:             s.epoch[:],
		JournalSize:       s.journal.Size(),
		ConfigurationHash: s.conf[:],
		Version:           s.opts.Version,
		TtlSeconds:        s.opts.Configuration.TTLSeconds,
		Development:       s.opts.Development,
		Providers:         s.providers(),
		Webhooks:          s.webhooks(),
	}
	if c, err := s.ceiling.Current(); err == nil {
		d.CeilingVersion, d.CeilingHash = c.Version, c.Hash[:]
	}
	return d, nil
}

// Persist implements the service.
func (s *Server) Persist(stream enclavev1.Enclave_PersistServer) error {
	err := s.journal.Serve(stream)
	if err != nil && stream.Context().Err() == nil {
		s.opts.Log.Warn("persist stream cut", "reason", err)
	}
	return err
}

// InstallCeiling implements the service. The ceiling is on record in the journal before it is in force.
func (s *Server) InstallCeiling(ctx context.Context, r *enclavev1.InstallCeilingRequest) (*enclavev1.Description, error) {
	if !s.journal.Attached() {
		return nil, status.Error(codes.Unavailable, "install ceiling: no store is attached, and a ceiling must be on record: wait until the parent has connected its journal")
	}
	c, err := s.ceiling.Install(r.GetBundle(), func(c *ceiling.Ceiling) error {
		entry, err := ceilingEntry(c)
		if err != nil {
			return err
		}
		_, err = s.journal.Append(ctx, entry)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.opts.Log.Info("ceiling in force", "version", c.Version, "hash", hex.EncodeToString(c.Hash[:]), "grants", len(c.Grants))
	return s.Describe(ctx, nil)
}

func ceilingEntry(c *ceiling.Ceiling) ([]byte, error) {
	return journal.NewEntry(journal.TypeCeiling, time.Now(), journal.CeilingInstalled{Version: c.Version, Hash: c.Hash}.Encode())
}

// opening is what follows entry 0: the ceiling and the cost control that were in force when the epoch began.
func (s *Server) opening() ([][]byte, error) {
	var entries [][]byte
	if c, err := s.ceiling.Current(); err == nil { // without a ceiling there is nothing to record
		entry, err := ceilingEntry(c)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	if c, err := s.spends.Control(); err == nil {
		entry, err := spending.ControlEntry(c, time.Now())
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// Dial implements the service.
func (s *Server) Dial(stream enclavev1.Enclave_DialServer) error { return s.dial.Dial(stream) }

// Connect implements the service.
func (s *Server) Connect(stream enclavev1.Enclave_ConnectServer) error { return s.dial.Connect(stream) }

// Mint implements the service.
func (s *Server) Mint(ctx context.Context, r *enclavev1.MintRequest) (*enclavev1.MintReply, error) {
	return s.mint.Mint(ctx, r)
}

// Record implements the service. Every verdict and approval must be well formed, or none is recorded.
func (s *Server) Record(ctx context.Context, r *enclavev1.RecordRequest) (*enclavev1.RecordReply, error) {
	if n := len(r.GetVerdicts()) + len(r.GetApprovals()); n == 0 || n > MaxVerdicts {
		return nil, status.Errorf(codes.InvalidArgument, "record: %d verdicts and approvals, use 1 to %d", n, MaxVerdicts)
	}
	entries := make([][]byte, 0, len(r.GetVerdicts())+len(r.GetApprovals()))
	now := time.Now()
	for i, raw := range r.GetVerdicts() {
		_, err := journal.DecodeVerdict(raw)
		if entries, err = appendEntry(entries, journal.TypeVerdict, now, raw, err); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "record: verdict %d: %v", i, err)
		}
	}
	for i, raw := range r.GetApprovals() {
		_, err := journal.DecodeApproval(raw)
		if entries, err = appendEntry(entries, journal.TypeApproval, now, raw, err); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "record: approval %d: %v", i, err)
		}
	}
	placed, err := s.journal.Append(ctx, entries...)
	if err != nil {
		return nil, err
	}
	return &enclavev1.RecordReply{Epoch: s.epoch[:], FirstIndex: placed.First}, nil
}

// appendEntry adds a payload that was found to be well formed, or malformed by err.
func appendEntry(entries [][]byte, t journal.Type, at time.Time, payload []byte, err error) ([][]byte, error) {
	if err != nil {
		return nil, err
	}
	entry, err := journal.NewEntry(t, at, payload)
	return append(entries, entry), err
}

// Attest implements the service.
func (s *Server) Attest(ctx context.Context, r *enclavev1.AttestRequest) (*enclavev1.Evidence, error) {
	if n := len(r.GetNonce()); n < MinNonce || n > signer.MaxNonce {
		return nil, status.Errorf(codes.InvalidArgument, "attest: nonce of %d bytes, use %d to %d", n, MinNonce, signer.MaxNonce)
	}
	e, err := s.opts.Signer.Evidence(ctx, r.GetNonce(), signer.Binding{Epoch: s.epoch, Configuration: s.conf, Head: s.journal.NewestHead()})
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	return &enclavev1.Evidence{Tier: e.Tier, Document: e.Document}, nil
}

// openCeiling opens the installed ceiling; in development it makes an operator key where the configuration names none, and
// a ceiling where none was ever installed. Where it names one nothing is made, and Describe does not call that development.
func (s *Server) openCeiling() (err error) {
	conf := *s.opts.Configuration
	s.opts.Configuration = &conf
	if !s.opts.Development || len(conf.OperatorKeys) > 0 {
		s.opts.Development = false
		if s.ceiling, err = ceiling.OpenStore(s.opts.State, conf.TrustDomain, conf.OperatorKeys); err != nil {
			return err
		}
		if _, err := s.ceiling.Current(); err != nil {
			s.opts.Log.Warn("nothing is granted yet", "reason", err, "operator_keys", len(conf.OperatorKeys))
		}
		return nil
	}
	key, made, err := ceiling.DevelopmentKey(s.opts.State)
	if err != nil {
		return err
	}
	if made {
		s.opts.Log.Warn("development: made an operator key; whoever reads it can sign ceilings", "file", ceiling.OperatorFile)
	}
	der, err := ceiling.PublicKey(key)
	if err != nil {
		return err
	}
	conf.OperatorKeys = [][]byte{der}
	if s.ceiling, err = ceiling.OpenStore(s.opts.State, conf.TrustDomain, conf.OperatorKeys); err != nil {
		return err
	}
	if _, err := s.ceiling.Current(); err == nil {
		return nil
	}
	c, err := ceiling.Development(conf.TrustDomain)
	if err != nil {
		return err
	}
	c.Version = s.ceiling.Floor() + 1
	bundle, err := ceiling.Sign(c, key)
	if err != nil {
		return err
	}
	if _, err := s.ceiling.Install(bundle, nil); err != nil {
		return err
	}
	s.opts.Log.Warn("development: made a ceiling that permits everything to everyone", "version", c.Version)
	return nil
}

package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/cmd/internal/start"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/instance"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// withOperator calls raypherd's Operator service on its unix socket, which identifies the caller by its credentials. What raypherd
// refuses is said with its address; the caller's own errors are passed on.
func withOperator(call func(parentv1.OperatorClient) error) error {
	paths, err := instance.FromEnvironment()
	if err != nil {
		return err
	}
	if err := start.Outside(); err != nil {
		return err
	}
	if err := unix.Access(paths.Socket, unix.R_OK|unix.W_OK); err != nil {
		return noDaemon(paths.Socket, err)
	}
	connection, err := grpc.NewClient("unix:"+paths.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("raypherd"))
	if err != nil {
		return fmt.Errorf("raypherd: %w", err)
	}
	defer connection.Close()
	err = call(parentv1.NewOperatorClient(connection))
	said, isStatus := err.(interface{ GRPCStatus() *status.Status })
	switch {
	case !isStatus:
		return err
	case said.GRPCStatus().Code() == codes.Unavailable && instance.Reach(paths.Socket) != nil:
		return noDaemon(paths.Socket, instance.Reach(paths.Socket))
	}
	return fmt.Errorf("raypherd at %s: %s", paths.Socket, said.GRPCStatus().Message())
}

// noDaemon explains why the socket cannot be used.
func noDaemon(socket string, err error) error {
	start := "start it, or name the --run-dir of the one that runs in " + instance.RunVariable
	if os.Getenv(instance.RunVariable) != "" {
		start = "start it, or correct " + instance.RunVariable
	} else {
		start += privateRuns(instance.PrivateSockets())
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("raypherd does not run: %s: %w: %s", socket, err, start)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("raypherd does not run: nobody serves %s, which an earlier one left: %s", socket, start)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: %s", socket, err, instance.WhoMayAsk(socket))
	}
	return fmt.Errorf("%s: %w", socket, err)
}

// privateRuns names the private pairs among sockets, which are asked one by one; nothing where there are none, or the caller sees none.
func privateRuns(sockets []string) string {
	var runs []string
	for _, socket := range sockets {
		if filepath.Base(socket) == filepath.Base(instance.Default().Socket) {
			runs = append(runs, instance.RunVariable+"="+filepath.Dir(socket))
		}
	}
	if len(runs) == 0 {
		return ""
	}
	return "; private runs of raypher run answer for themselves: " + strings.Join(runs, " or ")
}

func listFromDaemon(ctx context.Context, filter *listFilter) ([]listItem, error) {
	var items []listItem
	start := filter.start()
	err := withOperator(func(operator parentv1.OperatorClient) error {
		stream, err := operator.ListEvidence(ctx, &parentv1.ListEvidenceRequest{})
		if err != nil {
			return err
		}
		for {
			received, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			newItem, payload := newListItem, received.Verdict
			if len(received.Approval) > 0 {
				newItem, payload = newApprovalItem, received.Approval
			}
			item, err := newItem(hex.EncodeToString(received.Epoch), received.Index, payload)
			if err != nil {
				return err
			}
			if start.IsZero() || item.Time >= start.UnixNano() {
				items = append(items, item)
			}
		}
	})
	return items, err
}

func exportFromDaemon(c *cobra.Command, name entryName) ([]byte, error) {
	epoch, err := epochAtDaemon(c.Context(), name)
	if err != nil {
		return nil, err
	}
	var bundle []byte
	err = withOperator(func(operator parentv1.OperatorClient) error {
		reply, err := operator.ExportEvidence(c.Context(), &parentv1.ExportEvidenceRequest{Epoch: epoch, Index: name.index})
		bundle = reply.GetBundle()
		return err
	})
	return bundle, err
}

// epochAtDaemon completes the epoch of a name: raypherd wants all of it.
func epochAtDaemon(ctx context.Context, name entryName) ([]byte, error) {
	if len(name.epoch) == 2*len(journal.EpochID{}) {
		return hex.DecodeString(name.epoch)
	}
	if name.epoch == "" {
		var epoch []byte
		err := withOperator(func(operator parentv1.OperatorClient) error {
			reply, err := operator.Status(ctx, &parentv1.StatusRequest{})
			epoch = reply.GetEpoch()
			return err
		})
		return epoch, err
	}
	items, err := listFromDaemon(ctx, &listFilter{})
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, item := range items {
		if strings.HasPrefix(item.Epoch, strings.ToLower(name.epoch)) {
			found[item.Epoch] = true
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("epoch %s: %d epochs of the daemon's journal begin so", name.epoch, len(found))
	}
	for epoch := range found {
		return hex.DecodeString(epoch)
	}
	return nil, nil
}

func keyFromDaemon(ctx context.Context) (*journal.Key, error) {
	var der []byte
	err := withOperator(func(operator parentv1.OperatorClient) error {
		reply, err := operator.Status(ctx, &parentv1.StatusRequest{})
		der = reply.GetEnclaveKey()
		return err
	})
	if err != nil {
		return nil, err
	}
	return journal.ParseKey(der)
}

// jsonLine is a value as one line of JSON.
func jsonLine(value any) ([]byte, error) {
	line, err := json.Marshal(value)
	return append(line, '\n'), err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/journal"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func spendCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "spend",
		Short: "Say what models may cost, and what they have cost",
		Long: `What may be spent on models stands in a cost_control.yaml, which an operator key signs and the enclave obeys. Money itself comes
from grants (raypher grant). In development the enclave signs both for whoever may ask, which is no protection.`,
		Example: `  raypher spend control --key operator.key cost_control.yaml
  raypher spend show
  raypher spend top-up 5                    # development
  raypher spend top-up --grant GRANT --control SIGNED`,
	}
	c.AddCommand(spendControlCommand(), spendShowCommand(), spendTopUpCommand(), spendExportCommand())
	return c
}

func spendControlCommand() *cobra.Command {
	var keyFile, out string
	c := &cobra.Command{
		Use:   "control FILE",
		Short: "Check a cost_control.yaml, sign it and hand it to the enclave of this host",
		Long: `Check a cost_control.yaml, sign it with --key and hand it to the enclave, which obeys it from then on. With -o the signed file is
written and not handed over; such a file can be given instead of the YAML on another host. Without --key the YAML goes to an enclave
in development, which signs it itself.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			request, parsed, err := controlFile(c.ErrOrStderr(), args[0], keyFile)
			if err != nil {
				return err
			}
			if out != "" {
				if request.Signed == nil {
					return errors.New("-o: there is nothing signed to write: give --key")
				}
				if err := os.WriteFile(out, request.Signed, 0o644); err != nil {
					return err
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s: version %d, sha256:%x\n", out, parsed.Version, parsed.Hash())
				return err
			}
			return withOperator(func(operator parentv1.OperatorClient) error {
				status, err := operator.InstallControl(c.Context(), request)
				if err != nil {
					return err
				}
				if err := saidControl(c.OutOrStdout(), status); err != nil || !status.GetDevelopment() {
					return err // elsewhere a controller or KMS may have keys that are not listed
				}
				held, err := operator.DescribeProviderKeys(c.Context(), &parentv1.OperatorDescribeProviderKeysRequest{})
				if err != nil {
					return err
				}
				for _, name := range missingKeys(parsed, held) {
					fmt.Fprintf(c.OutOrStdout(), "the enclave has no key %s yet: raypher keys add %s\n", name, name)
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "operator key, as 'raypher ceiling keygen' made it")
	c.Flags().StringVarP(&out, "out", "o", "", "write the signed file and hand nothing over")
	return c
}

// controlFile reads a cost control: signed already, to be signed, or as it is.
func controlFile(complaints io.Writer, name, keyFile string) (*parentv1.OperatorInstallControlRequest, *cost.Control, error) {
	text, err := readBounded(name, cost.MaxFile)
	if err != nil {
		return nil, nil, err
	}
	if parsed, _, err := cost.Read(text); err == nil {
		return &parentv1.OperatorInstallControlRequest{Signed: text}, parsed, nil
	}
	parsed, err := cost.Parse(name, text)
	var mistakes cost.Errors
	if errors.As(err, &mistakes) {
		printProblems(complaints, mistakes)
		return nil, nil, &exitError{code: 1}
	}
	if err != nil || keyFile == "" {
		return &parentv1.OperatorInstallControlRequest{Source: text}, parsed, err
	}
	keyText, err := readBounded(keyFile, 64<<10)
	if err != nil {
		return nil, nil, err
	}
	key, err := ceiling.ParseKey(keyText)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	signed, err := parsed.Sign(key)
	return &parentv1.OperatorInstallControlRequest{Signed: signed}, parsed, err
}

// missingKeys are the keys that a cost control names and the enclave does not hold, by name.
func missingKeys(control *cost.Control, held *parentv1.OperatorProviderKeys) []string {
	named := map[string]bool{}
	for _, p := range control.Providers {
		named[p.Key] = true
	}
	for _, a := range control.Alerts {
		named[a.Secret] = true
	}
	for _, k := range held.GetKeys() {
		delete(named, k.GetName())
	}
	delete(named, "") // a provider that takes no key, an alert that is not signed
	return slices.Sorted(maps.Keys(named))
}

// saidControl says which cost control is in force.
func saidControl(out io.Writer, s *parentv1.OperatorSpending) error {
	parsed, _, err := cost.Read(s.GetControl())
	if err != nil {
		return fmt.Errorf("the enclave's cost control: %w", err)
	}
	signed := "signed by an operator"
	if s.GetDevelopment() {
		signed = "development: signed by the enclave itself, which is no protection"
	}
	budget := "no budget"
	if b := parsed.Host.Budget; b != nil {
		budget = fmt.Sprintf("%s dollars a month", *b)
	}
	_, err = fmt.Fprintf(out, "cost control version %d is in force: %s, %s, sha256:%x (%s)\n", parsed.Version, budget, counted(len(parsed.Providers), "provider"), parsed.Hash(), signed)
	return err
}

func spendTopUpCommand() *cobra.Command {
	var grant, control string
	c := &cobra.Command{
		Use:   "top-up [DOLLARS]",
		Short: "Give more to spend: a signed grant, a signed cost control with larger caps, or both; in development, so many dollars",
		Long: `Give more to spend. Two things bound it: the caps of the cost control, and the credit of the grant. Elsewhere than in development an
operator signs what is to be larger ('raypher grant sign', 'raypher spend control --key ... -o SIGNED') and this command hands it over, the
grant first. Calls that wait (on_exhausted: pause) go on by themselves. DOLLARS raise the host's budget alone; other caps are raised in the file.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 1) == (grant != "" || control != "") {
				return usageError(errors.New("top-up: give dollars (development), or --grant, --control or both"))
			}
			return withOperator(func(operator parentv1.OperatorClient) error {
				if len(args) == 1 {
					return topUpDevelopment(c, operator, args[0])
				}
				return topUp(c, operator, grant, control)
			})
		},
	}
	c.Flags().StringVar(&grant, "grant", "", "signed grant to install")
	c.Flags().StringVar(&control, "control", "", "signed cost control to install")
	return c
}

func topUpDevelopment(c *cobra.Command, operator parentv1.OperatorClient, dollars string) error {
	amount, err := cost.ParseAmount(dollars)
	if err != nil || amount == 0 {
		return usageError(fmt.Errorf("%.40q: %w", dollars, cost.ErrAmount))
	}
	fmt.Fprintf(c.OutOrStdout(), "adding %s dollars to the host's budget and its credit ...\n", amount)
	status, err := operator.TopUp(c.Context(), &parentv1.OperatorTopUpRequest{Amount: uint64(amount)})
	if err != nil {
		return err
	}
	return afterTopUp(c.OutOrStdout(), status)
}

func topUp(c *cobra.Command, operator parentv1.OperatorClient, grant, control string) error {
	out := c.OutOrStdout()
	if grant != "" {
		signed, err := readBounded(grant, journal.MaxGrantSize)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "installing the grant %s ...\n", grant)
		if _, err := operator.InstallGrant(c.Context(), &parentv1.OperatorInstallGrantRequest{Grant: signed}); err != nil {
			return err
		}
	}
	if control != "" {
		request, _, err := controlFile(c.ErrOrStderr(), control, "")
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "installing the cost control %s ...\n", control)
		if _, err := operator.InstallControl(c.Context(), request); err != nil {
			return err
		}
	}
	status, err := operator.DescribeSpending(context.WithoutCancel(c.Context()), &parentv1.OperatorDescribeSpendingRequest{})
	if err != nil {
		return err
	}
	return afterTopUp(out, status)
}

// afterTopUp says what can be spent now, and what bounds it.
func afterTopUp(out io.Writer, s *parentv1.OperatorSpending) error {
	if err := saidControl(out, s); err != nil {
		return err
	}
	credit := cost.Amount(s.GetGrant().GetOpen() + s.GetGrant().GetLeft())
	fmt.Fprintf(out, "credit left: %s dollars\n", credit)
	for _, a := range s.GetAccounts() {
		if a.GetLevel() != "host" || a.Budget == nil {
			continue
		}
		left := available(a, s.GetUnaccounted())
		bound := "the host's budget bounds it"
		if credit < left {
			bound, left = "the grant's credit bounds it", credit
		}
		fmt.Fprintf(out, "the host can spend %s dollars more this month: %s\n", left, bound)
	}
	switch n := s.GetPaused(); {
	case n == 1:
		fmt.Fprintln(out, "1 call waited and looks again now")
	case n > 1:
		fmt.Fprintf(out, "%d calls waited and look again now\n", n)
	}
	return nil
}

// available is what an account's budget leaves.
func available(a *parentv1.OperatorSpendingAccount, unaccounted uint64) cost.Amount {
	used := a.GetSpent() + a.GetHeld() + a.GetLost()
	if a.GetLevel() != "host" {
		used += unaccounted
	}
	if a.GetClosed() || a.Budget == nil || used >= a.GetBudget() {
		return 0
	}
	return cost.Amount(a.GetBudget() - used)
}

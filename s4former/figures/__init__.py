"""The figures S1 to S4 of the paper's supplement: `s4former figures attention|classes|views|compare`."""

"""The figures of the paper's supplement, S1 to S4: `python -m s4former.figures attention|classes|views|compare`."""
